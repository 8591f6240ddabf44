"""An export loaded again and compared with the live blend: what differs is found, named, and not kept."""

import dataclasses
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import random_adapter
from thinkswitch import rounds
from thinkswitch.errors import UserError
from thinkswitch.export import export as exporter
from thinkswitch.export import layout, streaming_verifier, verify
from thinkswitch.export import point as export_point
from thinkswitch.export.comparison import LOGITS, Comparison, Part, PartCall
from thinkswitch.export.destination import HIDDEN
from thinkswitch.export.point import ExportPoint
from thinkswitch.export.streaming_verifier import StreamingVerifier
from thinkswitch.recipe import Schedule
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import merge_blocks
from thinkswitch.weights.pair import Pair, open_pair
from unit.export_helpers import PRESET, after_rounds, export, finish, make_request, pair_in_bf16, tree


@pytest.fixture
def pair(folders) -> Pair:
    return open_pair(*folders("qwen3"))


@pytest.fixture
def all_are_large(monkeypatch):
    """Every pair is compared from the disk, and the writer is one layer ahead of the comparison at most."""
    monkeypatch.setattr(export_point, "LARGE_BYTES", 0)
    monkeypatch.setattr(streaming_verifier, "CACHED_BYTES", 1)


def export_while_a_disk_lies(request, change):
    """Export, with `change(weights, file names)` done to the files between writing and verifying."""
    steps = exporter.export(request)
    for stage, _, _ in steps:
        if stage == "verify":
            break
    [file] = request.out.parent.glob(f"{HIDDEN}*/new/model.safetensors")
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})
    return finish(steps)


# ---- what does not match is refused


def test_wrong_numbers_are_refused_with_their_figure(pair, tmp_path):
    def scale(weights):
        weights["model.layers.1.mlp.up_proj.weight"] *= 1.01

    message = r"differ from the live blend by 0\.01 at layer 2, MLP .*explains 0.0001, so nothing was kept"
    with pytest.raises(UserError, match=message):
        export_while_a_disk_lies(make_request(pair, rounds.start(pair), 0.5, tmp_path / "out"), scale)
    assert not tree(tmp_path)


def test_not_a_number_is_refused(folders, tmp_path):
    pair = pair_in_bf16(folders("qwen3"), tmp_path / "pair")

    def spoil(weights):
        for name in weights:
            if "norm" in name:
                weights[name] *= float("nan")

    with pytest.raises(UserError, match=r"by nan at layer 1, input_layernorm"):
        export_while_a_disk_lies(make_request(pair, rounds.start(pair), 0.5, tmp_path / "out"), spoil)


def test_a_missing_tensor_is_refused(pair, tmp_path):
    """transformers would make one up, and go on."""

    def drop(weights):
        del weights["model.layers.1.mlp.up_proj.weight"]

    with pytest.raises(UserError, match=r"missing keys.*up_proj"):
        export_while_a_disk_lies(make_request(pair, rounds.start(pair), 0.5, tmp_path / "out"), drop)
    assert not tree(tmp_path)


def test_an_unknown_tensor_is_refused(pair, tmp_path):
    """transformers would drop it, and go on."""

    def add(weights):
        weights["model.layers.0.mlp.extra.weight"] = torch.ones(1)

    with pytest.raises(UserError, match=r"unexpected keys.*extra"):
        export_while_a_disk_lies(make_request(pair, rounds.start(pair), 0.5, tmp_path / "out"), add)


def test_a_tokenizer_that_does_not_travel_is_refused(pair, tmp_path, monkeypatch):
    """Should a vendor keep its chat template in a file that we do not know."""
    known = tuple(name for name in layout.TOKENIZER_FILES if name != "chat_template.jinja")
    monkeypatch.setattr(layout, "TOKENIZER_FILES", known)
    with pytest.raises((UserError, ValueError), match=r"chat template|chat_template"):
        export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert not tree(tmp_path)


# ---- the blend to compare with


def test_others_use_the_blend_between_two_parts(pair, tmp_path):
    """The comparison of a 4 B pair held the page's model for its whole length, and all visitors waited.

    The page's blend also holds adapters of other runs.
    """
    state = after_rounds(pair, 2)
    blend = Blend(pair, [random_adapter(pair, 9), *state.adapters])
    other = dict.fromkeys(pair.names, (0.0, 1.0))
    calls: list[int] = []

    @contextmanager
    def turn():
        calls.append(0)
        yield
        blend.place([other, other])  # what another visitor asks for, in the gap

    hook = blend.model.model.layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    done = export(pair, state, 0.3, tmp_path / "out", blend=blend, slots=[1, 2], turn=turn)
    hook.remove()
    assert done.error < 1e-5
    assert sum(calls) == len(verify.PROMPTS)
    assert "11" not in "".join(map(str, calls))  # never two parts in one turn
    with pytest.raises(UserError, match="differ from the live blend"):  # the wrong basis shows
        export(pair, state, 0.3, tmp_path / "other", blend=blend)


def test_no_turn_is_taken_while_the_export_is_written_or_loaded(pair, tmp_path):
    blend, state = Blend(pair), rounds.start(pair)
    turns = []

    @contextmanager
    def turn():
        turns.append(1)
        yield

    steps = exporter.export(make_request(pair, state, 0.3, tmp_path / "out"), blend=blend, turn=turn)
    for stage, done, total in steps:
        assert not turns or (stage == "verify" and done / total > 0.6)
    assert turns


def test_a_four_bit_blend_has_a_wider_bound(pair, tmp_path):
    preset = dataclasses.replace(PRESET, four_bit=True)
    done = export(pair, rounds.start(pair), 0.5, tmp_path / "out", preset=preset)
    assert 0.05 < done.error < 0.3


# ---- the comparison


def test_a_layer_that_adds_nothing_is_no_difference(pair):
    """0 / 0: a pruned model, or one that was grown with empty layers, could not be exported."""
    blend, comparison = Blend(pair), Comparison()
    blend.place([rounds.start(pair).point(0.5)])
    hidden = torch.zeros(1, 2, pair.config.hidden_size)
    nothing = torch.zeros(1, 2, pair.config.hidden_size)
    logits = torch.zeros(1, 2, pair.config.vocab_size)
    comparison.add(blend, PartCall(LOGITS, (hidden,), {}, logits))
    comparison.add(blend, PartCall(Part("MLP", 1), (hidden,), {}, nothing))
    found = comparison.result({torch.float32})
    assert found.error == 0 and found.same_tokens == 1
    comparison.add(blend, PartCall(Part("MLP", 1), (hidden,), {}, nothing + 1e-9))
    with pytest.raises(UserError, match="by inf at layer 1, MLP"):
        comparison.result({torch.float32})


# ---- large checkpoints


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    ("family", "tied"),
    [("qwen3", True), ("qwen2", False), ("gemma2", True), ("lfm2", False), ("olmo3", False), ("phi3", True)],
)
def test_a_large_one_is_verified_from_the_disk(folders, tmp_path, monkeypatch, family, tied, adapter):
    """A 4 B pair: two sides live and a third model plain would take 48 GB; layer by layer it is some MB."""
    pair = open_pair(*folders(family, tied))
    state, t = after_rounds(pair, 2), 0 if adapter else 0.4
    small = export(pair, state, t, tmp_path / "small", adapter=adapter)
    monkeypatch.setattr(export_point, "LARGE_BYTES", 0)
    monkeypatch.setattr(streaming_verifier, "CACHED_BYTES", 1)
    in_memory = []
    init = Blend.__init__

    def measured_init(self, *args, **kwargs):
        init(self, *args, **kwargs)
        in_memory.append(sum(parameter.numel() for parameter in self.parameters()))

    monkeypatch.setattr(Blend, "__init__", measured_init)
    large = export(pair, state, t, tmp_path / "large", adapter=adapter)
    assert large.error < 1e-5 and large.same_tokens == small.same_tokens == 1
    assert in_memory and max(in_memory) < 0.05 * pair.parameters  # gains and biases only
    before, after = tree(tmp_path / "small"), tree(tmp_path / "large")
    assert all(before[name] == content for name, content in after.items() if name.endswith(".safetensors"))


def test_wrong_numbers_of_a_large_one_are_refused(pair, tmp_path, monkeypatch, all_are_large):
    def scaled(pair, adapters, recipe, name, step):
        factor = 1.01 if "1.mlp.up_proj" in name else 1
        return (rows * factor for rows in merge_blocks(pair, adapters, recipe, name, step))

    monkeypatch.setattr(layout, "merge_blocks", scaled)
    with pytest.raises(UserError, match=r"by 0\.01 at layer 2, MLP"):
        export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert not tree(tmp_path)


@pytest.mark.parametrize("where", ["prompt_tokens", "open_offloaded", "record_parts"])
def test_a_comparison_that_fails_meanwhile_holds_nobody_up(pair, tmp_path, monkeypatch, all_are_large, where):
    def fail(*_):
        raise UserError("the comparison broke")

    monkeypatch.setattr(streaming_verifier, where, fail)
    with pytest.raises(UserError, match="the comparison broke"):
        export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert not tree(tmp_path)


def test_a_writer_that_fails_meanwhile_ends_the_comparison(pair, tmp_path, monkeypatch, all_are_large):
    def scarce(pair, adapters, recipe, name, step):
        if "1.self_attn.q_proj" in name:
            raise OSError(28, "No space left on device")
        return merge_blocks(pair, adapters, recipe, name, step)

    monkeypatch.setattr(layout, "merge_blocks", scarce)
    with pytest.raises(UserError, match="No space left"):
        export(pair, rounds.start(pair), 0.5, tmp_path / "out")
    assert not tree(tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def test_the_verifier_waits_for_tensors_and_the_writer_for_layers(pair, tmp_path, all_are_large):
    """Step by step: no layer is compared before its tensors are whole, and its end lets the writer go on."""
    state = rounds.start(pair)
    export(pair, state, 0.5, tmp_path / "out")
    point = ExportPoint(pair, state, 0.5, Schedule(), PRESET)
    entries = layout.plan_entries(point)
    with StreamingVerifier(tmp_path / "out", point, entries) as verifier:
        for name, entry in entries.items():
            if ".layers.1." not in name or len(entry.shape) == 1:  # vectors are written first
                verifier.mark_readable(name)
        verifier.wait_until_compared(0)
        second = threading.Thread(target=verifier.wait_until_compared, args=(1,))
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive()  # its tensors are missing
        for name in entries:
            verifier.mark_readable(name)
        second.join()
        found, _ = finish(verifier.result())
    assert found.error < 1e-5 and found.same_tokens == 1


def test_closing_ends_a_comparison_that_waits(pair, tmp_path, all_are_large):
    state = rounds.start(pair)
    export(pair, state, 0.5, tmp_path / "out")
    point = ExportPoint(pair, state, 0.5, Schedule(), PRESET)
    StreamingVerifier(
        Path(tmp_path / "out"), point, layout.plan_entries(point)
    ).close()  # no tensor ever comes
