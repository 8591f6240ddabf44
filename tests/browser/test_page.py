"""The page in a real browser (Debian's Chromium), driven as a person would. One server for most; tests share no browser."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import ROOT, byte_tokenizer, save_pair
from thinkswitch import runs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
SLIDER = "#compare-t input[type=range]"
# what a page says that is reloaded, or whose server was killed by a test
BROKEN_OFF = "net::ERR_(ABORTED|CONNECTION_REFUSED|INCOMPLETE_CHUNKED|CONNECTION_RESET|EMPTY_RESPONSE)|network error|Connection errored out|BodyStreamBuffer was aborted|Failed to fetch|AbortError"
HOSTILE = ["<script>window.hacked=1</script>", '<img src=x onerror="window.hacked=1">', "[link](javascript:window.hacked=1)", "<b>half open",
           "{{value}}", "${window.hacked=1}", "</pre></details><style>*{display:none}</style>"]


# ---- servers and browsers


def serve(folder: Path, *flags) -> tuple[subprocess.Popen, str]:
    """app.py as a user starts it, in a folder of its own; returns when the page answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = open(folder / "server.log", "a")
    process = subprocess.Popen([sys.executable, ROOT / "app.py", "--port", str(port), *map(str, flags)], cwd=folder, env=env, stdout=log, stderr=log)
    for _ in range(600):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return process, f"http://127.0.0.1:{port}/"
        assert process.poll() is None, (folder / "server.log").read_text()
        time.sleep(0.1)
    raise AssertionError("the server did not come up")


def end(process: subprocess.Popen, folder: Path) -> None:
    process.kill()
    process.wait()
    for run in runs.runs_in(folder / "runs"):
        if pid := runs.running_pid(run):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(folder, address) of a server with the embedded pair."""
    folder = tmp_path_factory.mktemp("tiny")
    process, url = serve(folder)
    yield folder, url
    end(process, folder)
    assert "Traceback" not in (folder / "server.log").read_text()


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A server with a random pair that never stops by itself, and whose vocabulary is hostile."""
    folder = tmp_path_factory.mktemp("endless")
    instruct, thinking = save_pair(folder / "pair", vocab_size=len(byte_tokenizer()) + len(HOSTILE), max_position_embeddings=100_000)
    for role in (instruct, thinking):
        tok = AutoTokenizer.from_pretrained(role)
        tok.add_tokens(HOSTILE)
        tok.save_pretrained(role)
        model = AutoModelForCausalLM.from_pretrained(role)
        with torch.no_grad():  # what would end an answer is never among the likeliest
            model.get_input_embeddings().weight[[tok.eos_token_id, tok.pad_token_id]] = 0
        model.save_pretrained(role)
    (folder / "problems.jsonl").write_text("".join(json.dumps(dict(prompt=f"Say {i}", answer=str(i), kind="integer")) + "\n" for i in range(40)))
    (folder / "endless.yaml").write_text("name: endless\ninstruct: pair/instruct\nthinking: pair/thinking\ntrain_set: problems.jsonl\nheld_out_set: problems.jsonl\n"
                                         "prompts: 8\nheld_out: 8\nthink_tokens: 20000\ninstruct_tokens: 20000\n")
    process, url = serve(folder, "--preset", folder / "endless.yaml")
    yield folder, url
    end(process, folder)
    assert "Traceback" not in (folder / "server.log").read_text()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """`visit(url, width=…, dark=…)` -> a page in a browser context of its own. Afterwards: no error, no request elsewhere."""
    contexts, complaints = [], []

    def go(url, width=1280, height=900, dark=False, context=None):
        if context is None:
            contexts.append(context := chromium.new_context(viewport=dict(width=width, height=height)))
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("request", lambda r: complaints.append(f"asked {r.url}") if not r.url.startswith((url, "data:", "blob:")) else None)
        page.goto(url + ("?__theme=dark" if dark else ""))
        page.wait_for_selector(SLIDER)
        return page

    yield go
    for context in contexts:
        context.close()
    assert [c for c in complaints if not re.search(BROKEN_OFF, c)] == []


def text(page, id: str) -> str:
    return page.inner_text(f"#{id}")


def until(page, id: str, pattern: str, seconds: float = 30) -> str:
    """Wait until an element's text matches."""
    try:
        page.wait_for_function("([id, p]) => { const e = document.getElementById(id); return e && new RegExp(p, 's').test(e.innerText); }",
                               arg=[id, pattern], timeout=1000 * seconds)
    except Exception:
        raise AssertionError(f"#{id} never said {pattern!r}; it says {text(page, id)!r}") from None
    return text(page, id)


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name).first.click()
    page.wait_for_timeout(300)


def drag(page, t: float, release: bool = True) -> None:
    box = page.locator(SLIDER).bounding_box()
    at = lambda x: box["x"] + 12 + (box["width"] - 24) * x  # the thumb's middle
    page.mouse.move(at(float(page.input_value(SLIDER))), box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(at(t), box["y"] + box["height"] / 2, steps=4)
    if release:
        page.mouse.up()


def answered(page) -> str:
    return until(page, "compare-status", r" in \d+\.\d+ s")


# ---- tests


def test_the_page_is_up_before_torch_and_answers_by_itself(tmp_path, visit):
    process, url = serve(tmp_path)
    try:
        page = visit(url)
        assert "torch" in text(page, "models-status") or "ready" not in text(page, "models-status")
        until(page, "models-status", "tiny is ready: two checkpoints of 835,840 parameters", 60)
        answered(page)
        assert "\\boxed{" in text(page, "compare-instruct") and "trace" not in text(page, "compare-instruct")
        assert "trace" in text(page, "compare-thinking") and "✓" in text(page, "compare-thinking")
    finally:
        end(process, tmp_path)


def test_letting_go_of_the_slider_changes_the_blend_and_keeps_the_ends(tiny, visit):
    page = visit(tiny[1])
    answered(page)
    ends = text(page, "compare-instruct"), text(page, "compare-thinking")
    drag(page, 0.1)
    until(page, "compare-blend", r"blend · t = 0\.\d+.*boxed")
    low = until(page, "compare-status", "the middle, in") and text(page, "compare-blend")
    assert "trace" not in low  # instinct
    drag(page, 0.95)
    until(page, "compare-blend", r"t = 0\.9\d.*trace.*boxed")
    assert (text(page, "compare-instruct"), text(page, "compare-thinking")) == ends  # tokens and seconds, too


def test_the_keyboard_does_all_of_it(tiny, visit):
    """Gradio tells of a slider's release for the mouse only; theme.HEAD adds the keys. Enter runs."""
    page = visit(tiny[1])
    answered(page)
    page.locator(SLIDER).focus()
    page.keyboard.press("Home")
    until(page, "compare-status", "the middle, in")
    until(page, "compare-blend", r"^instruct")
    page.fill("#compare-prompt textarea", "What is 2 + 3 + 4?")
    page.press("#compare-prompt textarea", "Enter")
    until(page, "compare-thinking", r"boxed\{9\}")
    assert page.input_value("#compare-prompt textarea") == "What is 2 + 3 + 4?"


def test_example_chips_ask(tiny, visit):
    page = visit(tiny[1])
    answered(page)
    chip = page.locator("#compare-examples button").nth(1)
    start = chip.inner_text()[:20]
    chip.click()
    page.wait_for_function("s => document.querySelector('#compare-prompt textarea').value.startsWith(s)", arg=start)
    until(page, "compare-thinking", r"[✓✗].*boxed\{(yes|no|maybe)\}")


def test_scrubbing_a_rendered_spectrum_needs_no_server(tiny, visit):
    page = visit(tiny[1])
    answered(page)
    page.click("#compare-spectrum")
    until(page, "compare-status", "11 points as one batch, in")
    page.wait_for_timeout(200)
    asked = []
    page.on("request", lambda r: asked.append(r.url) if "queue/join" in r.url and b'"fn_index"' in (r.post_data_buffer or b"") else None)
    seen = []
    for t in (0.1, 0.3, 0.6, 0.9):
        drag(page, t, release=False)
        seen.append(until(page, "compare-blend", rf"t = 0\.{round(10 * t)}\b"))
    ticks = len([u for u in asked])
    page.mouse.up()
    assert len(set(seen)) == 4 and "trace" not in seen[0] and "trace" in seen[3]
    assert ticks <= 2 * 8  # timers only: a decode per move would be more, and would have been awaited


def test_the_strip_shows_where_this_prompt_switches(tiny, visit):
    page = visit(tiny[1])
    answered(page)
    page.wait_for_selector("#compare-switch .js-plotly-plot .main-svg")
    y = page.evaluate("() => Array.from(document.querySelector('#compare-switch .js-plotly-plot')._fullData[0].y)")
    assert len(y) == 21 and y[0] < 0.01 and y[20] > 0.99 and all(0 <= p <= 1 for p in y)


def test_a_reload_brings_back_what_was_set(tiny, visit):
    page = visit(tiny[1])
    answered(page)
    page.fill("#compare-prompt textarea", "What is 9 - 4 + 7?")
    drag(page, 0.8)
    answered(page)
    t = page.input_value(SLIDER)
    page.wait_for_timeout(2000)  # what is kept is encrypted: nothing in the browser says when it has been written
    page.reload()
    page.wait_for_function("() => document.querySelector('#compare-prompt textarea')?.value === 'What is 9 - 4 + 7?'")
    assert page.input_value(SLIDER) == t
    until(page, "compare-thinking", r"boxed\{12\}")


def test_an_empty_prompt_is_refused_in_one_sentence(tiny, visit):
    page = visit(tiny[1])
    answered(page)
    page.fill("#compare-prompt textarea", "  ")
    page.click("#compare-run")
    page.wait_for_selector(".toast-body")
    assert "the prompt is empty" in page.inner_text(".toast-body")
    until(page, "compare-status", "the prompt is empty")  # it stays, when the toast has gone


def test_models_says_what_differs_and_what_the_pair_is(tiny, visit):
    page = visit(tiny[1])
    open_tab(page, "Models")
    page.click("#models-check")
    said = until(page, "models-report", "Verdict")
    assert "compatible" in said and "qwen3, 4 layers, hidden 128" in said and "835,840" in said and "free" in said
    page.fill("#models-thinking input, #models-thinking textarea", "nowhere/at/all")
    page.click("#models-check")
    assert "neither an existing folder nor a Hub id" in until(page, "models-report", "neither")
    page.click("#models-load")  # a load that fails says so and keeps the pair it had
    until(page, "models-status", "neither an existing folder")
    page.fill("#models-thinking input, #models-thinking textarea", str(ROOT / "presets/tiny/thinking"))
    page.click("#models-load")
    until(page, "models-status", "tiny is ready", 60)


def test_the_loop_lives_through_reload_stop_a_dead_app_and_resume(tmp_path, visit):
    """Start, charts gain points, a second start is refused, reload, the app is killed, a new one finds the run; stop; resume; done."""
    process, url = serve(tmp_path)
    try:
        page = visit(url)
        open_tab(page, "Loop")
        for knob, value in (("rounds", 2), ("prompts", 768), ("held_out", 40)):
            page.fill(f"#knob-{knob} input", str(value))
        page.locator("#loop-knobs button").first.click()
        page.fill("#knob-seed input", "5")
        page.click("#loop-start")
        until(page, "loop-progress", "starting; torch is being imported|round 0")
        points = lambda page: page.evaluate("() => (document.querySelector('#loop-loss .js-plotly-plot')?._fullData || []).reduce((n, d) => n + d.x.length, 0)")
        until(page, "loop-progress", r"round 1 of 2 · distil", 90)
        page.wait_for_selector("#loop-loss .js-plotly-plot .main-svg")
        node = page.evaluate("() => { const p = document.querySelector('#loop-loss .js-plotly-plot'); p.seen = 1; window.Plotly.relayout(p, {'xaxis.range': [1, 9]}); return p._fullData.length; }")
        before = points(page)
        page.wait_for_function("n => document.querySelector('#loop-loss .js-plotly-plot')._fullData.reduce((n, d) => n + d.x.length, 0) > n", arg=before)
        kept = page.evaluate("() => { const p = document.querySelector('#loop-loss .js-plotly-plot'); return [p.seen, p._fullLayout.xaxis.range.map(Math.round)]; }")
        assert node >= 1 and kept == [1, [1, 9]]  # the same node, the zoom kept

        page.click("#loop-start")
        page.wait_for_selector(".toast-body")
        assert "is running; stop it first" in page.inner_text(".toast-body")

        page.reload()
        open_tab(page, "Loop")
        until(page, "loop-progress", r"round \d of 2")
        page.wait_for_selector("#loop-loss .js-plotly-plot .main-svg")
        assert points(page) > 0

        [run] = runs.runs_in(tmp_path / "runs")
        process.kill()
        process.wait()
        assert runs.running_pid(run)
        process, url = serve(tmp_path)
        page = visit(url)
        open_tab(page, "Loop")
        until(page, "loop-progress", r"round \d of 2")
        if runs.running_pid(run):  # a fast machine may be done by now
            page.wait_for_selector("#loop-stop:not([disabled])")
            page.click("#loop-stop")
            until(page, "loop-progress", "stopped in round", 30)
            page.wait_for_selector("#loop-resume:not([disabled])")
            page.click("#loop-resume")
        until(page, "loop-progress", ": done", 120)
        assert runs.state(run) == "done" and len(runs.measured(runs.read_lines(run / "events.jsonl"))) == 6
        accuracy = page.evaluate("() => document.querySelector('#loop-accuracy .js-plotly-plot')._fullData.filter(d => d.mode === 'lines+markers').map(d => d.x.length)")
        assert accuracy == [3, 3]

        page.locator("#loop-samples-box button").first.click()
        page.locator("#loop-samples [data-testid^=cell]").nth(2).click()
        said = until(page, "loop-sample", "What the loss sees")
        assert "Raw response" in said and "<think>" in said and "<|im_start|>assistant" in said
        page.locator("#loop-log-box button").first.click()
        assert "run tiny --out" in until(page, "loop-command", "thinkswitch") and "prompts=768" in text(page, "loop-command") and "seed=5" in text(page, "loop-command")
        open_tab(page, "Compare")
        page.locator("#compare-round input").click()
        page.get_by_role("option", name=re.compile("round 2")).click()
        until(page, "compare-status", r"round 2: .* in \d")
    finally:
        end(process, tmp_path)


def test_a_sweep_marks_the_flip_from_its_data(tiny, visit):
    page = visit(tiny[1])
    open_tab(page, "Explore")
    until(page, "explore-verdict", "SLERP and LERP differ")
    page.fill("#explore-problems input[type=number]", "20")
    page.click("#explore-sweep-start")
    said = until(page, "explore-status", "20 problems: best at", 60)
    flip = float(re.search(r"sets in at t = (0\.\d+)", said)[1])
    assert 0.3 < flip < 0.7
    marked = page.evaluate("() => document.querySelector('#explore-accuracy .js-plotly-plot')._fullLayout.shapes.map(s => s.x0)")
    assert any(abs(x - flip) < 0.01 for x in marked)
    assert page.evaluate("() => document.querySelector('#explore-angles .js-plotly-plot')._fullData[0].z.length") == 4


def test_compare_uses_the_schedule_of_explore(tiny, visit):
    """With every kind at 0 the blend stays instinct at t = 0.9."""
    page = visit(tiny[1])
    answered(page)
    open_tab(page, "Explore")
    for kind in ("attention", "mlp", "norm", "embedding"):
        page.fill(f"#schedule-{kind} input[type=number]", "0")
        page.press(f"#schedule-{kind} input[type=number]", "Tab")
    until(page, "schedule-status", "use this schedule")
    page.wait_for_timeout(500)
    open_tab(page, "Compare")
    drag(page, 0.9)
    until(page, "compare-status", "with the schedule of Explore: .* in ")
    assert "trace" not in text(page, "compare-blend")


def test_an_export_loads_in_plain_transformers(tiny, visit):
    folder, url = tiny
    page = visit(url)
    answered(page)
    drag(page, 1.0)
    answered(page)
    open_tab(page, "Export")
    until(page, "export-plan", r"MB in 46 tensors")
    page.fill("#export-folder input, #export-folder textarea", "exports/mine")
    page.click("#export-start")
    said = until(page, "export-status", "Exported", 60)
    assert float(re.search(r"by more than ([\d.e+-]+)", said)[1]) < 0.03
    out = folder / "exports" / "mine"
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True, local_files_only=True, dtype=torch.float32)
    tok = AutoTokenizer.from_pretrained(out, local_files_only=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    ids = tok.apply_chat_template([dict(role="user", content="What is 2 + 3 + 4?")], add_generation_prompt=True, return_tensors="pt")["input_ids"]
    assert "\\boxed{9}" in tok.decode(model.generate(ids, max_new_tokens=60, do_sample=False)[0])
    page.click("#export-start")  # never over what exists
    until(page, "export-status", "exists|already")


def test_two_visitors_do_not_see_each_other_and_stop_only_their_own(endless, visit):
    _, url = endless
    a, b = visit(url), visit(url)
    until(a, "models-status", "is ready", 60)
    for page, word in ((a, "alpha"), (b, "beta")):
        page.fill("#compare-prompt textarea", word)
        page.click("#compare-run")
        until(page, "compare-thinking", r"[1-9]\d+ tokens")
    assert a.input_value("#compare-prompt textarea") == "alpha" and b.input_value("#compare-prompt textarea") == "beta"
    b.wait_for_selector("#compare-stop:not([disabled])")
    b.click("#compare-stop")
    until(b, "compare-thinking", "stopped")
    count = lambda page: int(re.search(r"([\d,]+) tokens", text(page, "compare-thinking"))[1].replace(",", ""))
    before, deadline = count(a), time.monotonic() + 30
    while count(a) <= before:
        assert time.monotonic() < deadline and "stopped" not in text(a, "compare-thinking")
        a.wait_for_timeout(200)
    a.keyboard.press("Escape")
    until(a, "compare-thinking", "stopped")


def test_hostile_text_stays_text(endless, visit):
    """The vocabulary of this pair holds scripts, images, links, templates and half-open tags, and its answers are full of them."""
    _, url = endless
    page = visit(url)
    until(page, "models-status", "is ready", 60)
    page.locator("#compare-sampling button").first.click()
    page.get_by_label("custom", exact=True).check()
    page.locator("#compare-limit input").fill("600")
    page.fill("#compare-prompt textarea", "".join(HOSTILE))
    page.click("#compare-run")
    until(page, "compare-status", r" in \d+\.\d+ s", 120)
    said = "".join(page.evaluate("id => document.getElementById(id).textContent", f"compare-{c}") for c in ("instruct", "blend", "thinking"))
    assert sum(h in said for h in HOSTILE) >= 3, said[:500]
    assert page.evaluate("() => window.hacked") is None
    assert page.evaluate("() => document.querySelectorAll('.card img, .card script, .card style, .card a, .card b').length") == 0
    assert page.locator("#compare-run").is_visible()


def test_hostile_samples_stay_text(tiny, visit):
    folder, url = tiny
    run = folder / "runs" / "hostile"
    runs.write_atomic(run / "preset.yaml", (ROOT / "presets/tiny.yaml").read_text().replace("tiny/", f"{ROOT}/presets/tiny/"))
    raw = "".join(HOSTILE)
    runs.append(run / "rounds/1/samples.jsonl", dict(prompt_index=0, sample=0, kind="text", prompt=raw, text=f"{raw}</think>{raw}", prefilled=True,
                                                     tokens=9, finish="stop", trace=raw, answer=raw, said=raw, why=raw, kept=False))
    runs.append(run / "events.jsonl", *(runs.Event(1, phase, 1, 1, data).to_dict() for phase, data in (("strip", dict(kept=0, dropped={raw: 1})), ("error", dict(message=raw)))))
    page = visit(url)
    open_tab(page, "Loop")
    page.locator("#loop-run input").click()
    page.get_by_role("option", name=re.compile("hostile")).click()
    until(page, "loop-progress", "onerror")
    page.locator("#loop-samples-box button").first.click()
    page.locator("#loop-samples [data-testid^=cell]").nth(2).click()
    until(page, "loop-sample", "What the loss sees")
    assert page.evaluate("() => window.hacked") is None
    assert page.evaluate("() => document.querySelectorAll('#loop-progress img, #loop-sample img, #loop-sample script, #loop-samples img, #loop-samples script').length") == 0
    shutil.rmtree(run)


@pytest.mark.parametrize("width,dark", [(1280, True), (390, False), (390, True)])
def test_every_tab_fits_and_is_labelled(tiny, visit, width, dark):
    page = visit(tiny[1], width=width, height=844, dark=dark)
    for name in ("Models", "Loop", "Explore", "Export", "Compare"):
        open_tab(page, name)
        page.wait_for_timeout(400)
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth + 1"), name
        unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, textarea, select')].filter(e => e.offsetParent && e.type !== 'hidden' && !e.closest('.table-wrap'))
            .filter(e => !(e.innerText?.trim() || e.ariaLabel || e.title || e.labels?.length || e.getAttribute('aria-labelledby') || e.placeholder)).map(e => e.outerHTML.slice(0, 200))""")
        assert unnamed == [], name
        if dark:
            assert page.evaluate("() => document.body.classList.contains('dark')")


# ---- who may speak to the server


def asked(url: str, path: str, host: str | None = None) -> int:
    connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    return connection.getresponse().status


def test_foreign_hosts_and_files_are_refused(tiny):
    _, url = tiny
    assert asked(url, "/") == 200 and asked(url, "/config", "localhost:7860") == 200
    assert asked(url, "/", "evil.example") == 400 and asked(url, "/config", "evil.example:7860") == 400  # DNS rebinding
    for path in ("/etc/passwd", str(ROOT / "README.md"), str(ROOT / "presets/tiny/instruct/config.json")):
        assert asked(url, f"/gradio_api/file={path}") == 403
    assert asked(url, "/monitoring") == 403


@pytest.mark.parametrize("flags,says", [(["--host", "0.0.0.0"], "add --auth"), (["--share"], "add --auth"), (["--host", "0.0.0.0", "--auth", "me:"], "USER:PASSWORD"),
                                        (["--preset", "nothing"], "no preset 'nothing'")])
def test_refused_before_anything_listens(flags, says, tmp_path):
    done = subprocess.run([sys.executable, ROOT / "app.py", *flags], cwd=tmp_path, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and says in done.stderr


def test_with_a_password_nothing_answers_without_it(tmp_path):
    process, url = serve(tmp_path, "--host", "0.0.0.0", "--auth", "me:secret")
    try:
        assert asked(url, "/config") == 401 and asked(url, f"/gradio_api/file={ROOT}/README.md") == 401
        assert asked(url, "/", "evil.example") == 400
    finally:
        end(process, tmp_path)


def test_a_stage_shows_no_paths_and_exports_into_one_folder(tmp_path, visit):
    process, url = serve(tmp_path, "--demo")
    try:
        page = visit(url)
        answered(page)
        open_tab(page, "Models")
        assert page.locator("#models-instruct").count() == 0 or not page.locator("#models-instruct").is_visible()
        page.click("#models-check")
        until(page, "models-report", "compatible")
        open_tab(page, "Loop")
        page.locator("#loop-knobs button").first.click()
        page.wait_for_selector("#knob-seed")
        assert page.locator("#knob-train_set, #knob-instruct").count() == 0 and not page.locator("#loop-log-box").is_visible()
        open_tab(page, "Export")
        for name in ("../out", "/tmp/out", "a/b", ".."):
            page.fill("#export-folder input, #export-folder textarea", name)
            page.click("#export-start")
            until(page, "export-status", "is no plain name")
        page.fill("#export-folder input, #export-folder textarea", "mine")
        page.click("#export-start")
        said = until(page, "export-status", "Exported", 60)
        assert (tmp_path / "exports/mine/model.safetensors").is_file() and str(tmp_path) not in said
        for path in ("", "config"):  # what the browser is sent, shown or not
            with urllib.request.urlopen(url + path) as answer:
                sent = answer.read().decode()
            assert str(tmp_path) not in sent and str(ROOT) not in sent and "site-packages" not in sent
        assert str(tmp_path) not in page.content() and str(ROOT) not in page.content()
    finally:
        end(process, tmp_path)
