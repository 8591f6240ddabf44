"""The Loop tab: a run is a process of its own, which outlives reloads and the app."""

import shutil

import psutil

from browser.driver import (
    HOSTILE,
    POINTS,
    choose,
    fill,
    open_tab,
    plotted,
    text,
    unfold,
    until,
)
from conftest import ROOT, wait
from thinkswitch import runs

MARK_AND_ZOOM = """() => {
    const plot = document.querySelector('#loop-loss .js-plotly-plot');
    plot.marked = true;
    window.Plotly.relayout(plot, {'xaxis.range': [1, 9]});
}"""
MARK_AND_RANGE = """() => {
    const plot = document.querySelector('#loop-loss .js-plotly-plot');
    return [plot.marked, plot._fullLayout.xaxis.range.map(Math.round)];
}"""
LINES = """() => document.querySelector('#loop-accuracy .js-plotly-plot')._fullData
    .filter(line => line.mode === 'lines+markers').map(line => line.x.length)"""


def test_the_loop_lives_through_reload_a_dead_app_stop_and_resume(serve, visit):
    """The process is suspended while the page works, so that no machine is too slow or too quick."""
    server = serve()
    page = visit(server.url)
    open_tab(page, "Loop")
    for setting, value in (("rounds", 1), ("prompts", 192), ("held_out", 20)):
        fill(page, f"knob-{setting}", value)
    unfold(page, "loop-knobs")
    fill(page, "knob-epochs", 6)
    fill(page, "knob-seed", 5)
    page.click("#loop-start")
    wait(lambda: server.runs)
    [folder] = server.runs
    page.wait_for_selector("#loop-start", state="hidden")  # the form folds: the curves were under the fold
    for chart in ("loss", "accuracy", "tokens"):
        box = page.locator(f"#loop-{chart}").bounding_box()
        assert box["y"] + box["height"] < 720
    wait(lambda: (runs.last_line(folder / "events.jsonl") or {}).get("phase") == "distil")
    process = psutil.Process(runs.running_pid(folder))
    process.suspend()

    # the chart gains points, and keeps its node and its zoom
    until(page, "loop-progress", r"round 1 of 1.*distil")
    before = plotted(page, "loop-loss")
    page.evaluate(MARK_AND_ZOOM)
    process.resume()
    page.wait_for_function(f"before => ({POINTS})('loop-loss') > before", arg=before)
    process.suspend()
    assert page.evaluate(MARK_AND_RANGE) == [True, [1, 9]]

    unfold(page, "loop-new")
    page.wait_for_selector("#loop-start[disabled]")  # it stayed bright, and a second click was told off

    page.reload()
    open_tab(page, "Loop")
    until(page, "loop-progress", "round 1 of 1")
    assert plotted(page, "loop-loss") > 0

    server.kill()
    assert runs.running_pid(folder) == process.pid
    server.start()
    page = visit(server.url)
    open_tab(page, "Loop")
    until(page, "loop-progress", "round 1 of 1")
    page.click("#loop-stop:not([disabled])")
    process.resume()
    until(page, "loop-progress", "stopped in round")
    page.click("#loop-resume:not([disabled])")
    until(page, "loop-progress", ": done")
    assert runs.state(folder) == "done"
    assert len(runs.measured(runs.read_lines(folder / "events.jsonl"))) == 4
    assert page.evaluate(LINES) == [2, 2]

    unfold(page, "loop-samples-box")
    page.locator("#loop-samples [data-testid^=cell]").nth(2).click()
    sample = until(page, "loop-sample", "<think>")
    assert "<|im_start|>assistant" in sample
    unfold(page, "loop-log-box")
    command = until(page, "loop-command", "thinkswitch")
    assert "run tiny --out" in command and "prompts=192" in command and "seed=5" in command
    open_tab(page, "Compare")
    choose(page, "compare-round", "round 1")
    until(page, "compare-status", r"round 1: .* in \d")


def test_hostile_samples_stay_text(tiny, visit):
    folder = tiny.folder / "runs" / "hostile"
    preset = (ROOT / "presets/tiny.yaml").read_text("utf-8").replace("tiny/", f"{ROOT}/presets/tiny/")
    runs.write_atomic(folder / "preset.yaml", preset)
    raw = "".join(HOSTILE)
    sample = {
        "prompt_index": 0,
        "sample": 0,
        "kind": "text",
        "prompt": raw,
        "text": f"{raw}</think>{raw}",
        "prefilled": True,
        "tokens": 9,
        "finish": "stop",
        "trace": raw,
        "answer": raw,
        "said": raw,
        "why": raw,
        "kept": False,
    }
    runs.append(runs.round_dir(folder, 1) / "samples.jsonl", sample)
    strip = runs.Event(1, "strip", 1, 1, {"kept": 0, "dropped": {raw: 1}})
    error = runs.Event(1, "error", 1, 1, {"message": raw})
    runs.append(folder / "events.jsonl", strip.to_dict(), error.to_dict())
    page = visit(tiny.url)
    open_tab(page, "Loop")
    choose(page, "loop-run", "hostile")
    until(page, "loop-progress", "onerror")
    unfold(page, "loop-samples-box")
    page.locator("#loop-samples [data-testid^=cell]").nth(2).click()
    until(page, "loop-sample", "onerror")
    assert page.evaluate("() => window.hacked") is None
    for elem_id in ("loop-progress", "loop-sample", "loop-samples"):
        assert page.locator(f"#{elem_id}").locator("img, script").count() == 0
    assert "half open" in text(page, "loop-sample")
    shutil.rmtree(folder)
