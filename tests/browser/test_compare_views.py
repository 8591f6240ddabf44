"""Compare beyond one question and one slider: before and after training, conversations, recent prompts."""

import os
import subprocess
import sys

from browser.driver import (
    SLIDER,
    answered,
    choose,
    drag,
    fill,
    text,
    toast,
    unfold,
    until,
    until_answer,
)
from conftest import ROOT

PROMPT = "#compare-prompt textarea"
SHOWN = "id => document.querySelector(`#${id}`)?.offsetParent != null"


def train(folder) -> None:
    """One short round of the embedded pair."""
    settings = ["rounds=1", "prompts=64", "held_out=8", "epochs=3"]
    command = [sys.executable, "-m", "thinkswitch", "run", "tiny", "--out", folder, "--set", *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_before_and_after_shows_what_training_does(serve, visit, tmp_path):
    """The story of the method, the same question before and after training, could not be seen at all."""
    train(tmp_path / "runs" / "trained")
    page = visit(serve().url)
    answered(page)
    page.get_by_label("Before and after").check()
    until(page, "compare-status", "Before and after: 3 answers together, in")
    titles = [page.inner_text(f"#compare-{stage} .title") for stage in ("before", "after", "after-thinking")]
    assert titles == ["instruct · round 0", "instruct · round 1", "thinking · round 1"]
    for stage in ("before", "after", "after-thinking"):
        page.wait_for_function("s => document.querySelector(`#compare-${s} .answer`).textContent", arg=stage)
    assert not page.evaluate(SHOWN, "compare-t") and not page.evaluate(SHOWN, "compare-blend")
    # each column's round and t can be chosen
    choose(page, "compare-after-thinking-round", "Round 0")
    page.wait_for_function(
        "() => /round 0/.test(document.querySelector('#compare-after-thinking').innerText)"
    )
    page.get_by_label("Slider", exact=True).check()
    assert page.evaluate(SHOWN, "compare-t") and not page.evaluate(SHOWN, "compare-before")
    answered(page)


def test_a_follow_up_goes_on_and_a_new_conversation_clears(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    fill(page, "compare-prompt", "What is 2 + 3 + 4?")
    page.press(PROMPT, "Enter")
    until_answer(page, "thinking", "^9$")
    answered(page)
    fill(page, "compare-follow-up", "What is 1 + 1 + 1?")
    page.press("#compare-follow-up textarea", "Enter")
    for column in ("instruct", "blend", "thinking"):
        page.wait_for_function(
            "c => document.querySelector(`#compare-${c} .question`)?.textContent === 'What is 2 + 3 + 4?'",
            arg=column,
        )
    assert page.input_value(PROMPT) == "What is 1 + 1 + 1?"
    assert page.input_value("#compare-follow-up textarea") == ""
    assert page.inner_text("#compare-thinking .turns .answer").strip() == "9"
    answered(page)
    page.click("#compare-new-conversation")
    until(page, "compare-status", "A new conversation")
    assert page.locator(".question").count() == 0 and page.input_value(PROMPT) == ""
    fill(page, "compare-follow-up", "And?")
    page.click("#compare-ask")
    assert "press Run first" in toast(page)


def test_recent_prompts_come_back_with_their_settings(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    unfold(page, "compare-sampling")
    for prompt, limit in (("What is 2 + 3 + 4?", 60), ("What is 1 + 1 + 1?", 70)):
        fill(page, "compare-limit", limit)
        fill(page, "compare-prompt", prompt)
        page.press(PROMPT, "Enter")
        until_answer(page, "thinking", "^9$" if limit == 60 else "^3$")
    page.reload()
    answered(page)
    unfold(page, "compare-sampling")
    choose(page, "compare-recent", r"2 \+ 3 \+ 4")
    until_answer(page, "thinking", "^9$")
    assert page.input_value(PROMPT) == "What is 2 + 3 + 4?"
    assert page.input_value("#compare-limit input") == "60"


def test_a_system_prompt_is_asked_with(tiny, visit):
    """The toy has learnt no system prompt: what is seen is that it answers otherwise, or as before."""
    page = visit(tiny.url)
    answered(page)
    before = text(page, "compare-status")
    unfold(page, "compare-sampling")
    fill(page, "compare-system", "Say nothing but numbers.")
    page.press("#compare-system textarea", "Enter")
    page.wait_for_function(
        "before => document.querySelector('#compare-status').innerText !== before", arg=before
    )
    answered(page)


def test_m1_a_refused_prompt_takes_the_former_answers_away(tiny, visit):
    """Answers, marks and the curve of the former prompt stayed under the new one."""
    page = visit(tiny.url)
    answered(page)
    page.wait_for_selector("#compare-switch .main-svg")
    fill(page, "compare-prompt", "  ")
    page.click("#compare-run")
    until(page, "compare-status", "the prompt is empty")
    page.wait_for_function("() => !document.querySelector('#compare-switch .main-svg')")
    for column in ("instruct", "blend", "thinking"):
        assert page.inner_text(f"#compare-{column} .answer") == ""
        assert page.inner_text(f"#compare-{column} .mark") == ""


def test_m20_temperature_top_p_and_top_k_move_only_where_they_count(tiny, visit):
    """They could be moved although only "custom" reads them."""
    page = visit(tiny.url)
    answered(page)
    unfold(page, "compare-sampling")
    box = page.locator("#compare-temperature input[type=number]")
    assert box.is_disabled()
    page.get_by_label("custom", exact=True).check()
    page.wait_for_selector("#compare-temperature input[type=number]:not([disabled])")
    assert "0 = greedy" in text(page, "compare-temperature")
    page.get_by_label("greedy", exact=True).check()
    page.wait_for_selector("#compare-temperature input[type=number][disabled]")


def test_m21_a_trace_that_somebody_opened_stays_open(tiny, visit):
    """It closed at Run, and at the end of each decode: on a stage it vanished after 0.2 s."""
    page = visit(tiny.url)
    answered(page)
    page.click("#compare-thinking summary")
    assert page.locator("#compare-thinking details[open]").count() == 1
    fill(page, "compare-prompt", "What is 2 + 3 + 4?")
    page.press(PROMPT, "Enter")
    until_answer(page, "thinking", "^9$")
    answered(page)
    assert page.locator("#compare-thinking details[open]").count() == 1


def test_m25_a_round_that_does_not_exist_does_not_stay_in_the_box(tiny, visit):
    """ "bogus" stayed there, with "there is no 'bogus' any more"."""
    page = visit(tiny.url)
    answered(page)
    page.fill("#compare-round input", "bogus")
    page.keyboard.press("Enter")
    assert "there is no 'bogus'" in toast(page)
    page.wait_for_function("() => document.querySelector('#compare-round input').value === 'Round 0'")


def test_run_becomes_stop_while_something_runs(endless, visit):
    page = visit(endless.url)
    until(page, "models-status", "is ready")
    fill(page, "compare-prompt", "gamma")
    page.dblclick("#compare-run")  # the second click must not stop
    until(page, "compare-thinking", r"[1-9]\d+ tokens")
    assert "stopped" not in text(page, "compare-thinking")
    page.wait_for_function(
        "() => getComputedStyle(document.querySelector('#compare-stop')).opacity === '1'"
    )  # until then a click goes to Run
    run, stop = (page.locator(f"#compare-{name}").bounding_box() for name in ("run", "stop"))
    assert {key: round(value) for key, value in run.items()} == {k: round(v) for k, v in stop.items()}
    page.mouse.click(run["x"] + 20, run["y"] + 10)
    until(page, "compare-thinking", "stopped")
    page.wait_for_function("id => document.querySelector(id).offsetParent === null", arg="#compare-stop")


def test_the_line_of_t_stays_under_the_thumb_when_the_curve_is_drawn_late(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    fill(page, "compare-prompt", "What is 2 + 3 + 4?")
    page.press(PROMPT, "Enter")
    drag(page, 0.83)
    answered(page)
    page.wait_for_timeout(1500)
    line = "document.querySelector('#compare-switch .js-plotly-plot')._fullLayout.shapes[0].x0"
    assert page.evaluate(line) == float(page.input_value(SLIDER))
