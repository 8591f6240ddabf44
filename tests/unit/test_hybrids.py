"""One checkpoint on both sides, told apart by its template; and what a template refuses."""

import json
import shutil
from math import prod
from pathlib import Path

import pytest
import torch

from conftest import TINY, save_pair, wait
from thinkswitch import loop, rounds, runs
from thinkswitch.cli.main import main
from thinkswitch.distil import make_example
from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset, make_preset
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import open_pair_of
from ui.compare import answer_text, answering
from ui.compare.question import COLUMNS, STAGES, all_columns, read_question
from ui.loop import samples as samples_widget
from ui.models import tab as models
from ui.run_control import PAIR
from ui.studio import Studio

SWITCH = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
)
SMALL = dict(rounds=1, prompts=20, held_out=6, rows=6, epochs=2, batch=4, micro_batch=4, think_tokens=120)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory) -> Path:
    """The embedded thinking checkpoint with a template that has a switch, as Qwen3's."""
    folder = Path(shutil.copytree(TINY / "thinking", tmp_path_factory.mktemp("hybrid") / "both"))
    (folder / "chat_template.jinja").write_text(SWITCH, "utf-8")
    return folder


@pytest.fixture(scope="module")
def preset(hybrid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("problems")
    for name in ("train.jsonl", "held_out.jsonl"):
        lines = sorted((TINY / name).read_bytes().splitlines(keepends=True)[:1000], key=len)[:80]
        (folder / name).write_bytes(b"".join(lines))
    return make_preset(
        {
            **SMALL,
            "train_set": str(folder / "train.jsonl"),
            "held_out_set": str(folder / "held_out.jsonl"),
            "instruct": str(hybrid),
            "thinking": str(hybrid),
            "instruct_template_args": {"enable_thinking": False},
            "instruct_tokens": 20,
        },
        base=load_preset("tiny"),
    )


@pytest.fixture(scope="module")
def finished(preset, tmp_path_factory) -> tuple[Path, list[runs.Event]]:
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, list(loop.run(preset, folder))


def first_token_logits(preset, state: rounds.Round, ts: list[float]) -> torch.Tensor:
    pair = open_pair_of(preset)
    blend = Blend(pair, state.adapters)
    blend.place([state.point(t) for t in ts])
    ids = torch.tensor([pair.thinking.prompt_ids("What is 4 + 5?")] * len(ts))
    with torch.inference_mode():
        return blend(input_ids=ids).logits[:, -1]


# ---- a hybrid


def test_each_side_has_its_own_arguments(preset):
    pair = open_pair_of(preset)
    assert pair.same_weights
    assert pair.instruct.render("hi").endswith("<think>\n\n</think>\n\n")
    assert pair.thinking.render("hi").endswith("assistant\n<think>\n")
    assert (pair.instruct.template_opens_think, pair.thinking.template_opens_think) == (False, True)
    prompt = pair.instruct.tokenizer.decode(make_example(pair.instruct, "hi", "12").prompt)
    assert prompt.endswith("</think>\n\n")  # it learns under the template that it is asked with


def test_its_weights_are_in_memory_once(preset):
    pair = open_pair_of(preset)
    once = sum(prod(info.shape) for info in pair.instruct.entries.values())
    assert Blend(pair).nbytes == pytest.approx(4 * once, rel=0.05)


def test_the_slider_moves_something_after_a_round_and_not_before(preset, finished):
    folder, events = finished
    assert events[-1].phase == "done"
    strip = next(e for e in events if e.phase == "strip")
    assert strip.data["kept"] >= 10
    assert load_preset(folder).instruct_template_args == "{enable_thinking: false}"
    samples = list(runs.read_lines(runs.round_dir(folder, 1) / "samples.jsonl"))
    assert all(sample["prefilled"] and "tags" not in sample for sample in samples)

    before = first_token_logits(preset, rounds.read(folder, 0), [0.0, 0.5, 1.0])
    assert before[0].allclose(before[1], atol=1e-4) and before[0].allclose(before[2], atol=1e-4)
    after = first_token_logits(preset, rounds.read(folder, 1), [0.0, 0.5, 1.0])
    steps = (after[1:] - after[:-1]).abs().amax(1)
    assert (steps > 0.01).all()


def test_a_sample_shows_the_prompt_that_the_loss_sees(finished):
    [first, *_] = samples_widget.table(finished[0], 1, "all")
    shown = samples_widget.details(finished[0], 1, first[1])
    assert shown.count("&lt;/think&gt;") >= 2  # the model's own, and the one of the instruct prompt


def test_check_tells_a_hybrid_from_a_mistake(hybrid, capsys):
    assert (
        main(["check", str(hybrid), str(hybrid), "--set", "instruct_template_args={enable_thinking: 0}"]) == 0
    )
    shown = capsys.readouterr().out
    instruct = next(line for line in shown.splitlines() if line.startswith("instruct: "))
    assert instruct.endswith("; asked with the template arguments {enable_thinking: 0}")
    assert "both sides are the same weights, told apart by the template" in shown
    assert main(["check", str(hybrid), str(hybrid)]) == 0
    assert "are asked alike; tell them apart with instruct_template_args" in capsys.readouterr().out


def test_compare_says_why_the_slider_moves_nothing(preset):
    studio = Studio(preset, "hybrid")
    studio.load(preset, "hybrid")
    wait(lambda: not studio.loader.loading)
    assert studio.loader.status == "Ready"
    stages = [f"{stage}_{part}" for stage in STAGES for part in ("round", "t")]
    values = dict.fromkeys(("temperature", "top_p", "top_k", "seed", "system", "view", *stages))
    asked = read_question(
        values
        | dict(prompt="What is 4 + 5?", t=0.5, round=PAIR, template="auto", how="greedy", limit=8)
        | dict(schedule=preset.schedule)
    )
    answering.answer(studio, "s", 1, asked, all_columns(asked))
    last = list(studio.sessions.get("s").watch(COLUMNS))[-1]
    assert answer_text.SAME_WEIGHTS in last.parts["status"]
    assert "same weights" not in answer_text.result_line(asked, 3, 1.0, False)
    assert "same weights" in models.report_html(preset)


# ---- system prompts, and what a template refuses


def test_a_system_prompt_stands_before_the_question(folders):
    preset = make_preset(
        dict(zip(("instruct", "thinking"), folders("qwen3"), strict=True)) | {"thinking_system": "Think."}
    )
    pair = open_pair_of(preset)
    assert pair.thinking.render("hi").startswith("<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\nhi")
    assert "system" not in pair.instruct.render("hi") and not pair.same_weights


@pytest.mark.parametrize(
    "template, setting, value, says",
    [
        (NO_SYSTEM + SWITCH, "thinking_system", "Think.", "with the system prompt 'Think.': .*not supported"),
        (
            SWITCH.replace("in messages %}", "in messages if m.role != 'system' %}"),
            "thinking_system",
            "Think.",
            "its chat template leaves the system prompt out",
        ),
        (SWITCH, "thinking_template_args", "{enable_think: true}", "knows no argument 'enable_think'"),
        (SWITCH, "thinking_template_args", "{tokenize: true}", "'tokenize' is not free to set"),
        (SWITCH, "thinking_template_args", "{messages: []}", "'messages' is not free to set"),
        (
            SWITCH + "{% if enable_thinking == 'x' %}{{ raise_exception('on or off') }}{% endif %}",
            "thinking_template_args",
            "{enable_thinking: x}",
            "with the template arguments {enable_thinking: x}: .*on or off",
        ),
    ],
    ids=["refuses system", "ignores system", "unknown argument", "taken", "messages", "refuses argument"],
)
def test_what_a_template_refuses_is_one_sentence_when_the_pair_is_opened(
    tmp_path, template, setting, value, says
):
    folders = save_pair(tmp_path)
    (tmp_path / "thinking" / "chat_template.jinja").write_text(template, "utf-8")
    preset = make_preset({"instruct": folders[0], "thinking": folders[1], setting: value})
    with pytest.raises(UserError, match=says) as error:
        open_pair_of(preset, headers_only=True)
    assert "\n" not in str(error.value)


# ---- tags that never come


@pytest.mark.parametrize("rows, count", [(6, 16), (18, 18)])
def test_a_run_ends_after_sixteen_answers_without_a_trace(preset, tmp_path, rows, count):
    """It ran for hours, and said only at its end that no answer could be kept.

    A batch is waited for: of a checkpoint that mostly thinks, the answers without a trace end first.
    """
    wrong = make_preset({"think_tags": ["[THINK]", "[/THINK]"], "rows": rows}, base=preset)
    folder = tmp_path / "run"
    with pytest.raises(
        UserError, match=rf"none of the first {count} answers has a trace \(\[THINK\]"
    ) as error:
        list(loop.run(wrong, folder))
    assert f"{count} of them have '<think>' or '</think>' instead; set think_tags=[<think>, </think>]" in str(
        error.value
    )
    path = runs.round_dir(folder, 1) / "samples.jsonl"
    assert len(path.read_text("utf-8").splitlines()) == count  # of 20: what was answered is kept
    with pytest.raises(UserError, match=f"none of the first {count}"):  # at once, not after more
        list(loop.resume(folder))
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len(lines) == count and lines[0]["tags"] == ["[THINK]", "[/THINK]"]


def test_answers_of_the_instruct_side_need_no_trace(preset, tmp_path):
    """labels=self trains on them as a control."""
    own = make_preset({"labels": "self", "think_tags": ["[THINK]", "[/THINK]"]}, base=preset)
    events = loop.run(own, tmp_path / "run")
    strip = next(e for e in events if e.phase in ("strip", "error"))
    events.close()
    assert strip.phase == "strip" and strip.total == 20


def test_a_pair_with_other_tags_ends_in_the_same_bytes(preset, tmp_path):
    """The embedded pair with its tags renamed: the same tokens, so the same adapter and scores."""
    results = []
    for opening, closing in (("<think>", "</think>"), ("[THINK]", "[/THINK]")):
        here = tmp_path / opening.strip("<[>]")
        for role in ("instruct", "thinking"):
            shutil.copytree(TINY / role, here / role)
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                file = here / role / name
                text = file.read_text("utf-8").replace("<think>", opening).replace("</think>", closing)
                file.write_text(text, "utf-8")
        changes = dict(instruct=str(here / "instruct"), thinking=str(here / "thinking"))
        own = make_preset({**changes, "instruct_template_args": ""}, base=preset)
        assert list(loop.run(own, here / "run"))[-1].phase == "done"
        one = runs.round_dir(here / "run", 1)
        samples = list(runs.read_lines(one / "samples.jsonl"))
        assert all(closing in sample["text"] and closing not in sample["answer"] for sample in samples)
        adapter = (one / "adapter" / "adapter_model.safetensors").read_bytes()
        results.append((adapter, (one / "scores.jsonl").read_text(), [s["answer"] for s in samples]))
    assert results[0] == results[1]
