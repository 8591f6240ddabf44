"""GGUF files: llama.cpp's names, types, order of rows, tokens; read back, and tried in llama.cpp itself."""

import dataclasses
import importlib.util
import json
import shlex

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import TokenType

from conftest import TINY
from thinkswitch import rounds
from thinkswitch.errors import UserError
from thinkswitch.export import export as exporter
from thinkswitch.export import (
    gguf_families,
    gguf_folder,
    gguf_layout,
    gguf_quantise,
    gguf_rope,
    gguf_tokenizer,
    gguf_verify,
    llama_cpp,
)
from thinkswitch.export.formats import FORMATS, offers
from thinkswitch.export.gguf_kinds import KINDS as ALL_KINDS
from thinkswitch.export.gguf_kinds import QUANTISATIONS
from thinkswitch.weights.checkpoint import open_checkpoint
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair
from unit.export_helpers import PRESET, after_rounds, export, make_request
from unit.gguf_helpers import KINDS, PADDING, needs_llama_cpp, save_bpe_pair

RANKS = {layer: layer for layer in range(16)}  # every layer has attention
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory):
    """`pair_of(kind)`: a random pair of a family."""
    made = {}

    def get(kind: str):
        if kind not in made:
            family, changes, tied = KINDS[kind]
            made[kind] = save_bpe_pair(tmp_path_factory.mktemp("pair"), family, tied, **changes)
        return made[kind]

    return get


def write(pair, tmp_path, *kinds: str, t: float = 0.4, state=None, preset=PRESET):
    out = tmp_path / "out"
    done = export(pair, state or rounds.start(pair), t, out, gguf=kinds, preset=preset)
    return done, sorted(out.glob("*.gguf"))


# ---- tensors


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_the_point_under_llama_cpp_s_name(pair_of, tmp_path, kind):
    """16 bits hold what a folder export holds; queries and keys of llama lie in another order of rows."""
    pair = pair_of(kind)
    _, [file] = write(pair, tmp_path, "BF16")
    expected = materialise(pair, [], rounds.start(pair).point(0.4)).state_dict()
    family = gguf_families.FAMILIES[pair.config.model_type]
    arch = gguf_layout.ARCHITECTURE_IDS[family.architecture]
    names = gguf.get_tensor_name_map(arch, pair.config.num_hidden_layers)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    ropes = {name: stored.pop(name) for name in [*stored] if name.startswith("rope_")}
    assert ropes.keys() == gguf_rope.rope_tensors(pair.config).keys()
    heads = {"attn_q": pair.config.num_attention_heads, "attn_k": pair.config.num_key_value_heads}
    for source, weights in expected.items():
        if source == "lm_head.weight" and pair.config.tie_word_embeddings:
            continue
        tensor = stored.pop(names.get_name(source, (".weight", ".bias")))
        found = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(weights.shape)
        count = heads.get(tensor.name.split(".")[-2]) if family.neighbours else None
        if count:  # back from neighbours to halves
            found = found.reshape(count, -1, 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)
        if pair.config.model_type.startswith("gemma") and source.endswith("norm.weight"):
            weights = weights + 1
        rounded = weights if tensor.tensor_type == Type.F32 else weights.bfloat16().float()
        assert np.array_equal(found, rounded.numpy()), source
    assert not stored


@needs_llama_cpp
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_computes_what_the_live_blend_does(pair_of, tmp_path, kind):
    """A wrong rope, order of rows, bias or tied head makes a fluent model of another mind."""
    pair = pair_of(kind)
    done, _ = write(pair, tmp_path, "BF16", "Q8_0")  # it is refused where they differ beyond rounding
    assert done.same_tokens >= 0.7 and "llama.cpp reads prompts as the same token ids" in done.verified


@needs_llama_cpp
def test_a_round_is_exported_with_its_updates(pair_of, tmp_path):
    pair = pair_of("qwen3")
    state = after_rounds(pair, 2)
    done, [file] = write(pair, tmp_path, "BF16", t=0.0, state=state)
    assert done.same_tokens >= 0.7
    _, [plain] = write(pair, tmp_path / "before", "BF16", t=0.0)
    assert file.read_bytes() != plain.read_bytes()


def test_more_bits_go_where_llama_quantize_puts_them():
    def types(kind: str, tied: bool = False, row: int = 256) -> dict[str, str]:
        names = ["token_embd.weight", "output.weight", "blk.0.attn_v.weight", "blk.0.ffn_down.weight"]
        names += ["blk.4.ffn_down.weight", "blk.5.ffn_down.weight", "blk.4.attn_q.weight"]
        return {name: gguf_layout.type_of(name, (8, row), kind, 16, tied, RANKS).name for name in names}

    q4 = types("Q4_K_M")
    assert q4 == {
        "token_embd.weight": "Q4_K",
        "output.weight": "Q6_K",
        "blk.0.attn_v.weight": "Q6_K",  # of the first eighth of the layers
        "blk.0.ffn_down.weight": "Q6_K",
        "blk.4.ffn_down.weight": "Q6_K",  # every third one after it
        "blk.5.ffn_down.weight": "Q4_K",
        "blk.4.attn_q.weight": "Q4_K",
    }
    assert types("Q4_K_M", tied=True)["token_embd.weight"] == "Q6_K"
    assert set(types("Q6_K").values()) == {"Q6_K"} and set(types("Q8_0").values()) == {"Q8_0"}
    assert types("Q5_K_M", row=96)["blk.5.ffn_down.weight"] == "Q5_1"  # no multiple of 256
    assert set(types("Q8_0", row=40).values()) == {"F16"}  # nor of 32
    for name, shape in (
        ("blk.0.attn_norm.weight", (8,)),
        ("blk.0.attn_q.bias", (8,)),
        ("x_norm.weight", (8, 8)),
    ):
        assert gguf_layout.type_of(name, shape, "Q4_K_M", 16, False, RANKS) == Type.F32


@needs_llama_cpp
@pytest.mark.parametrize("type_", [Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.Q8_0, Type.BF16])
def test_rows_are_quantised_one_by_one(type_):
    """So a block of rows gives the same bytes as the whole tensor."""
    rows = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)
    whole = gguf_quantise.quantised(rows, type_)
    parts = [gguf_quantise.quantised(rows[start : start + 2], type_) for start in (0, 2, 4)]
    assert np.array_equal(whole, np.concatenate(parts))
    read = gguf.dequantize(whole, type_)
    assert np.linalg.norm(read - rows) / np.linalg.norm(rows) < 0.1


def test_several_kinds_come_from_one_pass_and_their_sizes_are_known_before(pair_of, tmp_path):
    kinds = [kind for kind in QUANTISATIONS if kind in ("Q8_0", "BF16", "F16")]
    pair = pair_of("qwen3")
    request = make_request(pair, rounds.start(pair), 0.4, tmp_path / "out", gguf=tuple(kinds))
    planned = exporter.plan_export(request)
    done, files = write(pair, tmp_path, *kinds)
    assert len(files) == len(kinds) and planned.dtype == "/".join(kinds)
    assert {gguf.GGUFReader(file).fields["general.file_type"].contents() for file in files} == {7, 32, 1}
    assert abs(planned.size - done.size) < 60_000  # keys and vocabulary


# ---- tokens


def test_the_vocabulary_has_a_text_for_every_row(pair_of):
    checkpoint = pair_of("qwen3").thinking
    size = len(checkpoint.tokenizer)
    tokens, types = gguf_tokenizer.vocabulary(checkpoint, size + PADDING)
    assert tokens[size:] == [f"[PAD{size + i}]" for i in range(PADDING)]
    assert types[size:] == [TokenType.UNUSED] * PADDING
    kinds = dict(zip(tokens, types, strict=True))
    assert kinds["<|im_end|>"] == TokenType.CONTROL and kinds["<think>"] == TokenType.USER_DEFINED
    assert kinds["a"] == TokenType.NORMAL
    assert "beyond the 100 rows" in gguf_tokenizer.look_for_rule(checkpoint.tokenizer, (), 100)


@needs_llama_cpp
def test_the_embedded_pair_says_that_rare_text_is_split_otherwise(tmp_path):
    pair = open_pair(str(TINY / "instruct"), str(TINY / "thinking"))
    assert gguf_tokenizer.find_rule(pair.thinking) == gguf_tokenizer.FoundRule("gpt-2", exact=False)
    done, [file] = write(pair, tmp_path, "Q8_0", t=1.0)
    assert done.same_tokens == 1
    assert "some rare text is not" in (file.parent / "README.md").read_text("utf-8")
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.chat_template"].contents() == pair.thinking.tokenizer.chat_template


@pytest.mark.parametrize("rule", gguf_tokenizer.RULES, ids=lambda rule: rule.name)
def test_a_rule_is_found_by_what_it_does(tmp_path, rule):
    """By hash, as llama.cpp's converter does it, a tokenizer that somebody trained has none."""
    checkpoint = save_bpe_pair(tmp_path, rule=rule).thinking
    assert gguf_tokenizer.find_rule(checkpoint) == gguf_tokenizer.FoundRule(rule.name)


@needs_llama_cpp
@pytest.mark.parametrize("rule", gguf_tokenizer.RULES, ids=lambda rule: rule.name)
def test_llama_cpp_splits_text_as_its_rule_is_written_down_here(tmp_path, rule):
    pair = save_bpe_pair(tmp_path, rule=rule)
    _, [file] = write(pair, tmp_path, "Q8_0")
    ids, _ = llama_cpp.ask(file, list(gguf_tokenizer.TEXTS), [])
    tokenizer = pair.thinking.tokenizer
    assert ids == [tokenizer.encode(text, add_special_tokens=False) for text in gguf_tokenizer.TEXTS]


def test_a_tokenizer_without_merges_is_refused(folders):
    with pytest.raises(UserError, match="has no merges"):
        gguf_tokenizer.find_rule(open_checkpoint(folders()[0]))


@pytest.fixture
def forgetful():
    """No test's tokenizer is remembered, nor what another test found of it."""
    gguf_tokenizer.look_for_rule.cache_clear()
    yield
    gguf_tokenizer.look_for_rule.cache_clear()


def test_a_tokenizer_that_llama_cpp_has_no_rule_for_is_refused(monkeypatch, pair_of, forgetful):
    monkeypatch.setattr(gguf_tokenizer, "same_ids", lambda *args: False)
    with pytest.raises(UserError, match=r"no rule of llama\.cpp does .*; export a Hugging Face folder"):
        gguf_tokenizer.find_rule(pair_of("qwen3").thinking)


def test_sentencepiece_is_refused(monkeypatch, pair_of, forgetful):
    checkpoint = pair_of("qwen3").thinking
    data = gguf_tokenizer.tokenizer_data(checkpoint.tokenizer)
    data["model"]["byte_fallback"] = True
    monkeypatch.setattr(gguf_tokenizer, "tokenizer_data", lambda tokenizer: data)
    with pytest.raises(UserError, match="is not byte-level BPE"):
        gguf_tokenizer.find_rule(checkpoint)


def test_a_form_that_changes_does_not_search_for_the_rule_again(monkeypatch, pair_of, tmp_path, forgetful):
    """With a vocabulary of 150,000 tokens that took seconds, for each kind, at each move of the slider."""
    made = []
    emulated = gguf_tokenizer.emulated
    monkeypatch.setattr(gguf_tokenizer, "emulated", lambda *args: made.append(1) or emulated(*args))
    pair = pair_of("qwen3")
    for t in (0.2, 0.4, 0.6):
        offers(make_request(pair, rounds.start(pair), t, tmp_path / "out").point)
    assert len(made) == 1


# ---- what cannot be had


def test_what_gguf_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    pair = save_bpe_pair(tmp_path / "pair", "qwen3", rope_parameters=DYNAMIC)
    request = make_request(pair, rounds.start(pair), 0.4, tmp_path / "out", gguf=("Q8_0",))
    with pytest.raises(UserError, match="'dynamic'"):
        exporter.plan_export(request)
    assert not (tmp_path / "out").exists()


def test_without_xllamacpp_the_k_types_are_off_and_say_what_enables_them(monkeypatch, pair_of, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else found(name)
    )
    pair = pair_of("qwen3")
    point = make_request(pair, rounds.start(pair), 0.4, tmp_path / "out").point
    by_name = {offer.format.name: offer for offer in offers(point)}
    assert "pip install -r requirements-gguf.txt" in by_name["GGUF Q4_K_M"].reason
    assert by_name["GGUF Q8_0"].size and by_name["GGUF BF16"].size > by_name["GGUF Q8_0"].size
    done, _ = write(pair, tmp_path, "Q8_0")
    assert done.same_tokens is None and "was not tried in it" in done.verified


def test_an_adapter_is_no_gguf(pair_of, tmp_path):
    pair = pair_of("qwen3")
    request = make_request(pair, after_rounds(pair, 1), 0.0, tmp_path / "out", adapter=True, gguf=("Q8_0",))
    with pytest.raises(UserError, match="either an adapter or GGUF files"):
        exporter.plan_export(request)


def test_no_blend_is_made_where_llama_cpp_is_not_there_to_be_compared(monkeypatch, pair_of, tmp_path):
    """It takes the memory of both checkpoints, and a file is written in that of a few rows."""
    monkeypatch.setattr(llama_cpp, "is_here", lambda: False)
    monkeypatch.setattr(exporter, "make_blend", lambda point: pytest.fail("a blend was made"))
    done, _ = write(pair_of("qwen3"), tmp_path, "Q8_0", "BF16")
    assert done.same_tokens is None


def test_there_are_cards_for_kinds_that_exist():
    kinds = {kind for format_ in FORMATS.values() for kind in format_.gguf}
    assert kinds <= set(ALL_KINDS)


def test_a_file_that_is_not_what_was_written_leaves_nothing(monkeypatch, pair_of, tmp_path):
    """A disk that lies, or a fault of this writer."""
    write_files = exporter.write_files

    def damaging(point, files):
        written = yield from write_files(point, files)
        content = bytearray(files[0].path.read_bytes())
        content[-40] ^= 255
        files[0].path.write_bytes(content)
        return written

    monkeypatch.setattr(exporter, "write_files", damaging)
    with pytest.raises(UserError, match="is not what was written; nothing was kept"):
        write(pair_of("qwen3"), tmp_path, "BF16")
    assert not (tmp_path / "out").exists()


@needs_llama_cpp
def test_another_model_is_told_from_rounding(monkeypatch, pair_of, tmp_path):
    """Rows of llama that keep the order of the checkpoint: the classic fault of converters."""
    family = dataclasses.replace(gguf_families.FAMILIES["llama"], neighbours=False)
    monkeypatch.setitem(gguf_families.FAMILIES, "llama", family)
    with pytest.raises(UserError, match="computes something else"):
        write(pair_of("llama"), tmp_path, "BF16")
    assert not (tmp_path / "out").exists()


@needs_llama_cpp
def test_a_file_that_llama_cpp_cannot_load_is_a_sentence(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF nonsense")
    with pytest.raises(UserError, match=r"llama\.cpp does not take what was written"):
        llama_cpp.ask(tmp_path / "x.gguf", [], [])


# ---- beside the file


def test_beside_the_file_lies_what_ollama_needs(pair_of, tmp_path):
    preset = dataclasses.replace(
        PRESET, think_temperature=0.6, think_top_p=0.95, think_top_k=20, think_min_p=0.05, name="my pair"
    )
    done, [file] = write(pair_of("qwen3"), tmp_path, "Q8_0", t=1.0, preset=preset)
    assert file.name == "my-pair-round-0-t1-" + file.name.split("-")[-2] + "-Q8_0.gguf"
    lines = (file.parent / "Modelfile").read_text("utf-8").splitlines()
    assert lines[0] == f"FROM ./{file.name}"
    assert {"PARAMETER temperature 0.6", "PARAMETER top_k 20", "PARAMETER min_p 0.05"} <= set(lines)
    assert 'PARAMETER stop "<|im_end|>"' in lines
    card = (file.parent / "README.md").read_text("utf-8")
    assert "library_name: gguf" in card and "ollama create" in card and "rounded to Q8_0" in card
    assert "llama-server -m" in done.code and file.name in done.code
    kept = json.loads((file.parent / "recipe.json").read_text("utf-8"))
    assert kept["kind"] == "gguf" and list(kept["sha256"]) == [file.name]


def test_a_preset_of_any_name_names_plain_files_and_commands(pair_of, tmp_path):
    """A slash in it would have led out of the folder, and a space through the shell."""
    preset = dataclasses.replace(PRESET, name="../../my pair; rm")
    out = tmp_path / "a folder"
    done = export(pair_of("qwen3"), rounds.start(pair_of("qwen3")), 1.0, out, gguf=("Q8_0",), preset=preset)
    [file] = out.glob("*.gguf")
    assert file.name.startswith("my-pair-rm-round-0-t1-")
    for line in done.code.splitlines():
        assert str(out / "Modelfile") in shlex.split(line) or str(file) in shlex.split(line)


def test_a_sliding_window_ends_the_context_and_is_said(tmp_path):
    pair = save_bpe_pair(tmp_path / "pair", "mistral", sliding_window=48)
    request = make_request(pair, rounds.start(pair), 0.4, tmp_path / "out", gguf=("Q8_0",))
    assert gguf_families.context_length(pair.config) == 48
    assert "attends to the last 48 tokens" in gguf_folder.remarks(request.point)[0]
    wide = save_bpe_pair(tmp_path / "wide", "mistral", sliding_window=4096)  # longer than its context
    assert gguf_families.sliding_window(wide.config) is None
    assert gguf_verify.NEAR.keys() == set(QUANTISATIONS)
