"""Runs in the Loop tab: follow one, lay another over, rename, delete, use its settings again."""

import json
import re
import time

import pytest

from browser.driver import choose, open_tab, plotted, text, toast, unfold, until
from conftest import ROOT, wait
from thinkswitch import runs
from thinkswitch.statistics import wilson

NAMES = """elem_id => document.querySelector(`#${elem_id} .js-plotly-plot`)._fullData
    .filter(line => line.showlegend !== false).map(line => line.name)"""
DASHED = """elem_id => document.querySelector(`#${elem_id} .js-plotly-plot`)._fullData
    .filter(line => line.line.dash === 'dash' && line.x[0] !== null).length"""


def made_run(server, name: str, right: tuple[int, int] = (20, 60), **settings):
    """A finished run in a server's folder: one round, its scores and its losses."""
    folder = server.folder / "runs" / name
    preset = (ROOT / "presets/tiny.yaml").read_text("utf-8").replace("tiny/", f"{ROOT}/presets/tiny/")
    changes = "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
    kept = [line for line in preset.splitlines() if line.partition(":")[0] not in settings]
    runs.write_atomic(folder / "preset.yaml", "\n".join(kept) + "\n" + changes)
    rows = [measured(0, role, right[0]) for role in ("instruct", "thinking")]
    rows += [
        runs.Event(1, "distil", step, 4, {"loss": 1 / step, "tokens_per_s": 9}).to_dict() for step in (1, 2)
    ]
    rows += [measured(1, role, right[1]) for role in ("instruct", "thinking")]
    runs.append(folder / "events.jsonl", *rows, runs.Event(1, "done", 1, 1).to_dict())
    return folder


def measured(number: int, role: str, right: int) -> dict:
    low, high = wilson(right, 100)
    figures = dict(checkpoint=role, n=100, correct=right, accuracy=right / 100, low=low, high=high)
    figures |= dict(think_rate=float(role == "thinking"), mean_tokens=30.0)
    if number:
        figures["since_start"] = {"gained": 45, "lost": 5, "p": 4e-9}
    return runs.Event(number, "measure", 100, 100, figures).to_dict()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from browser.driver import Server

    started = Server(tmp_path_factory.mktemp("runs"))
    yield started
    started.close()
    assert "Traceback" not in started.log, started.log


def at_run(visit, server, name: str):
    page = visit(server.url)
    open_tab(page, "Loop")
    choose(page, "loop-run", rf"^{name} –")
    until(page, "loop-progress", f"{name}: done")
    return page


def test_a_run_tells_its_test_against_round_0_in_words(server, visit):
    made_run(server, "words")
    page = at_run(visit, server, "words")
    said = until(page, "loop-scores", "thinking")
    assert re.search(r"instruct round 1: 60\.0 % \[.*\], \+45 −5 against round 0, p = 4e-09: better", said)
    assert "cost" not in text(page, "loop-progress")  # m6: nothing is known of money
    label = page.input_value("#loop-run input")
    assert re.fullmatch(r"words – done · instruct 20\.0 → 60\.0 % · \d{4}-\d\d-\d\d", label)


def test_another_run_is_laid_over_dashed(server, visit):
    made_run(server, "mine")
    made_run(server, "control", right=(20, 25))
    page = at_run(visit, server, "mine")
    plotted(page, "loop-tokens")
    assert page.evaluate(NAMES, "loop-tokens") == ["instruct", "thinking"]  # "think rate" stood there twice
    choose(page, "loop-overlay", "^control$")
    page.wait_for_function(f"() => ({DASHED})('loop-accuracy') === 2")
    assert page.evaluate(NAMES, "loop-accuracy") == ["instruct", "thinking", "control"]
    assert page.evaluate(DASHED, "loop-tokens") == 2
    assert page.evaluate(DASHED, "loop-loss") == 1
    choose(page, "loop-overlay", "^none$")
    page.wait_for_function(f"() => ({DASHED})('loop-accuracy') === 0")


def test_a_run_is_renamed(server, visit):
    made_run(server, "plain")
    page = at_run(visit, server, "plain")
    page.click("#loop-manage")
    for wrong in ("../out", ""):
        page.locator("#loop-name input, #loop-name textarea").fill(wrong)
        page.click("#loop-rename")
        until(page, "loop-menu-message", f"cannot be called '{wrong}'")
    page.locator("#loop-name input, #loop-name textarea").fill("Best so far (2)")
    page.click("#loop-rename")
    until(page, "loop-progress", r"Best so far \(2\): done")
    assert (server.folder / "runs/Best so far (2)/events.jsonl").is_file()
    assert not (server.folder / "runs/plain").exists() and not (server.folder / "out").exists()
    folder = page.locator("#loop-folder input, #loop-folder textarea")
    assert folder.input_value() == str(server.folder / "runs/Best so far (2)")
    assert page.locator("#loop-folder button").count() == 1  # copies it


def test_a_run_is_deleted_when_it_was_asked_twice(server, visit):
    folder = made_run(server, "doomed")
    made_run(server, "stays")
    page = at_run(visit, server, "doomed")
    page.click("#loop-manage")
    page.click("#loop-delete")
    until(page, "loop-menu-message", r"doomed \(0 rounds, .*\) will be gone; this cannot be undone")
    page.click("#loop-keep")
    page.wait_for_selector("#loop-keep", state="hidden")
    assert folder.is_dir() and text(page, "loop-delete") == "Delete"
    page.click("#loop-delete")
    until(page, "loop-delete", "for good")
    page.click("#loop-delete")
    assert "doomed was deleted" in toast(page)
    wait(lambda: not folder.exists())
    assert (server.folder / "runs/stays").is_dir()
    page.wait_for_function("() => !document.querySelector('#loop-progress').innerText.startsWith('doomed')")


def test_m16_a_run_that_was_refused_can_be_deleted(server, visit):
    """It stayed in the list for ever."""
    folder = server.folder / "runs" / "never began"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}", "utf-8")
    (folder / "log.txt").write_text("error: held_out asks for 9 problems, there are 4\n", "utf-8")
    page = visit(server.url)
    open_tab(page, "Loop")
    choose(page, "loop-run", "never began")
    until(page, "loop-progress", r"did not start: “Held out” \(held_out\) asks for")
    page.click("#loop-manage")
    page.click("#loop-delete")
    until(page, "loop-delete", "for good")
    page.click("#loop-delete")
    wait(lambda: not folder.exists())


def test_the_settings_of_a_run_are_used_again(server, visit):
    made_run(server, "with settings", rounds=7, lora_rank=4, seed=11)
    page = at_run(visit, server, "with settings")
    page.click("#loop-manage")
    page.click("#loop-reuse")
    page.wait_for_selector("#loop-start")
    page.wait_for_function("() => document.querySelector('#knob-rounds input').value === '7'")
    assert page.input_value("#knob-lora_rank input") == "4"
    unfold(page, "loop-knobs")
    page.wait_for_selector("#knob-seed input")
    assert page.input_value("#knob-seed input") == "11"


def test_m9_a_second_tab_follows_a_run_that_starts_and_m8_start_is_off(server, visit):
    """It stayed with its own, and "stop it first" outlived the run; Start was bright all the while."""
    made_run(server, "old")
    folder = made_run(server, "begins")
    page = at_run(visit, server, "old")
    page.wait_for_selector("#loop-start", state="hidden")  # a run's curves come first
    unfold(page, "loop-new")
    page.wait_for_selector("#loop-start:not([disabled])")
    with runs.claim(folder):
        runs.append(folder / "events.jsonl", runs.Event(1, "think", 3, 9).to_dict())
        until(page, "loop-progress", "begins: round 1 of")
        page.wait_for_selector("#loop-start[disabled]")
        why = "() => getComputedStyle(document.querySelector('#loop-start'), '::after').content"
        assert "a loop is running" in page.evaluate(why)
        choose(page, "loop-run", "^old –")
        until(page, "loop-progress", "old: done")
        time.sleep(2.5)  # two pulses
        assert text(page, "loop-progress").startswith("old")  # one may go back
        page.click("#loop-manage")
    page.wait_for_selector("#loop-start:not([disabled])")
    assert "stop it first" not in text(page, "tab-loop")


def test_m7_a_stop_during_the_first_measurement_says_what_it_was_doing(server, visit):
    """It said "stopped in round 0"."""
    folder = made_run(server, "early")
    figures = {"checkpoint": "instruct", "accuracy": 0.5}
    rows = [runs.Event(0, "measure", 7, 30, figures).to_dict(), runs.Event(0, "stopped").to_dict()]
    runs.write_atomic(folder / "events.jsonl", "".join(runs.to_line(row) for row in rows))
    page = visit(server.url)
    open_tab(page, "Loop")
    choose(page, "loop-run", "^early –")
    until(page, "loop-progress", r"stopped before round 1 \(measure instruct 7/30\); press Resume")


def test_m5_of_the_major_ones_a_run_that_is_resumed_says_so_from_the_first_second(server, visit):
    """It said "stopped 0/0 · about 0 s left" for six seconds, and its clock and bar went backwards."""
    folder = made_run(server, "resumed")
    rows = [
        runs.Event(1, "distil", 3, 4, {"loss": 1.0, "tokens_per_s": 9}, time=1.0),
        runs.Event(1, "stopped", time=2.0),
    ]
    runs.write_atomic(folder / "events.jsonl", "".join(runs.to_line(row.to_dict()) for row in rows))
    page = visit(server.url)
    open_tab(page, "Loop")
    choose(page, "loop-run", "^resumed –")
    until(page, "loop-progress", r"resumed: stopped in round 1 \(distil 3/4\); press Resume")
    width = "() => document.querySelector('#loop-progress .progress-bar i').style.width"
    stopped_at = page.evaluate(width)
    with runs.claim(folder):
        said = until(page, "loop-progress", r"resumed: resuming in round 1; torch is being imported")
        assert "0/0" not in said and "left" not in said and "cost" not in said
        assert page.evaluate(width) == stopped_at != "0%"


def test_in_a_demo_nobody_renames_or_deletes_what_is_not_theirs(serve, visit):
    server = serve("--demo")
    folder = made_run(server, "theirs")
    page = at_run(visit, server, "theirs")
    page.click("#loop-manage")
    page.wait_for_selector("#loop-rename")
    assert not page.locator("#loop-folder").is_visible()
    page.click("#loop-delete")
    until(page, "loop-menu-message", "only the visitor who started run theirs may do that")
    page.locator("#loop-name input, #loop-name textarea").fill("mine")
    page.click("#loop-rename")
    until(page, "loop-menu-message", "only the visitor")
    assert folder.is_dir()
    assert str(server.folder) not in page.content()


def test_late_news_of_no_run_do_not_wipe_a_run_that_was_chosen_meanwhile(server, visit):
    """Two listeners of the same outputs answered in either order: the tab said "Start runs the loop"."""
    made_run(server, "late")
    page = visit(server.url)
    listener = page.evaluate(
        """() => window.gradio_config.dependencies.find(({ targets }) => targets.some(([id]) =>
            window.gradio_config.components.find(c => c.id === id)?.props.elem_id === 'pulse-loop')).id"""
    )
    waiting = []

    def hold_the_first(route):
        body = route.request.post_data_json
        if body["fn_index"] == listener and not waiting:
            waiting.append(route)
        else:
            route.continue_()

    page.route("**/queue/join*", hold_the_first)
    open_tab(page, "Loop")
    while not waiting:
        page.wait_for_timeout(50)
    choose(page, "loop-run", "^late –")
    page.wait_for_timeout(500)
    waiting[0].continue_()
    until(page, "loop-progress", "late: done")
    page.wait_for_timeout(1500)
    assert "late: done" in text(page, "loop-progress")
