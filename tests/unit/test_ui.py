"""What the page is made of: form, charts, turns, tasks, words. No browser."""

import dataclasses
import json
import threading
import time

import gradio as gr
import pytest

from conftest import TINY, random_adapter
from thinkswitch import recipe, rounds, runs
from thinkswitch.errors import UserError
from thinkswitch.preset import PRESETS, Preset, apply_settings, load_preset, make_preset
from thinkswitch.problems import Problem
from thinkswitch.recipe import Schedule
from ui import scheduling
from ui import studio as studio_module
from ui.scheduling import BackgroundTask, FairLock
from ui.sessions import Session
from ui.studio import PAIR, Studio, pick_examples
from ui.tabs import explore, loop
from ui.widgets import charts, form, theme

FIELDS = [f.name for f in dataclasses.fields(Preset)]
PATHS = {f.name for f in dataclasses.fields(Preset) if f.metadata["hide_in_demo"]}


# ---- the form


@pytest.mark.parametrize("demo", [False, True])
def test_every_knob_has_one_home(demo):
    """The name is the preset's; a stage shows no paths of its machine."""
    shown = [*form.FEW, *(name for names in form.groups(demo).values() for name in names)]
    assert len(shown) == len(set(shown))
    assert set(shown) == set(FIELDS) - {"name"} - (PATHS if demo else set())
    assert all(form.groups(demo))  # each under a heading


@pytest.mark.parametrize("demo", [False, True])
def test_the_built_form_holds_what_the_preset_says(demo):
    base = load_preset("tiny")
    with gr.Blocks():
        made = form.build(base, demo)
    assert set(made) == set(FIELDS) - {"name"} - (PATHS if demo else set())
    assert len({c.elem_id for c in made.values()}) == len(made)
    assert form.read(base, {name: c.value for name, c in made.items()}) == base
    fields = {f.name: f for f in dataclasses.fields(Preset)}
    for name, c in made.items():
        assert c.info == fields[name].metadata["help"]
    assert [value for _, value in made["labels"].choices] == ["thinking", "self", "shuffled"] and made["four_bit"].value == "auto"


@pytest.mark.parametrize("base", [Preset(), load_preset("tiny"), Preset(four_bit=False, schedule=Schedule(mlp=1e-5, depth=(0, 1 / 3)), prompt_template="{q}\n: "),
                                  Preset(four_bit=True, learning_rate=1e-5, soft=True, name="a: b")], ids=["default", "tiny", "odd", "other"])
def test_a_form_that_nobody_touched_is_the_preset(base):
    assert form.read(base, {name: form.shown(getattr(base, name)) for name in FIELDS}) == base
    assert form.read(base, {}) == base


def test_a_form_s_values_become_knobs():
    base = load_preset("tiny")
    values = {name: form.shown(getattr(base, name)) for name in FIELDS} | dict(rounds=2, t=1, four_bit="true", fresh=False, schedule="{mlp: 0.5, depth: [0, 1]}", labels="self")
    assert form.read(base, values) == dataclasses.replace(base, rounds=2, t=1.0, four_bit=True, fresh=False, schedule=Schedule(mlp=0.5, depth=(0.0, 1.0)), labels="self")


@pytest.mark.parametrize("name, value, says", [
    ("rounds", 0, "rounds must lie between 1 and 100, it is 0"), ("rounds", 2.5, "rounds must be a whole number"), ("t", 1.5, "t must lie between 0 and 1"),
    ("t", float("nan"), "t must lie"), ("learning_rate", 0, "learning_rate must be above 0"), ("labels", "human", "labels must be one of thinking, self, shuffled"),
    ("four_bit", "perhaps", "four_bit must be true or false"), ("schedule", "{mlp", "schedule is not readable"), ("schedule", "mlp", "schedule must be a mapping"),
    ("schedule", "", "schedule must be a mapping"), ("schedule", "{ffn: 1}", "unknown setting 'ffn'"), ("schedule", "{mlp: 3}", "mlp must lie between 0 and 2"),
    ("schedule", "{depth: []}", "depth must hold"), ("rounds", None, "rounds is empty; give it a value \\(the preset has 3\\)"),
    ("schedule", None, "schedule is empty"), ("labels", None, "labels is empty")])
def test_a_wrong_value_names_its_knob(name, value, says):
    with pytest.raises(UserError, match=says):
        form.read(load_preset("tiny"), {"epochs": 3, name: value})


def test_a_schedule_that_looks_like_a_date_is_refused_in_words():
    """yaml raises a bare ValueError for it; `presets.load` catches that, the form does not."""
    with pytest.raises(UserError, match="schedule"):
        form.read(Preset(), {"schedule": "{depth: 2024-13-45}"})


# ---- charts


def drawn(text: str) -> dict:
    """Strict JSON, as the browser reads it: no NaN."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def plain(values) -> list:
    """Numbers of a trace; plotly may pack an array as base64."""
    if isinstance(values, dict):
        import base64

        import numpy as np
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()
    return list(values)


def distil(round, steps, total):
    return [dict(phase="distil", round=round, step=step, total=total, loss=round + 1 / step) for step in steps]


def measure(round, checkpoint, right, n=100):
    from thinkswitch.statistics import wilson
    low, high = wilson(right, n)
    return dict(phase="measure", round=round, checkpoint=checkpoint, step=n, total=n, n=n, correct=right, accuracy=right / n, low=low, high=high,
                think_rate=float(checkpoint == "thinking"), mean_tokens=40.0)


def test_loss_is_one_line_a_round_and_a_resumed_run_s_steps_count_once():
    """Killed at step 7 of 10, resumed from the save at 5: steps 6 and 7 are told twice."""
    events = [dict(phase="think", round=1, step=1, total=2), *distil(1, range(1, 8), 10), *distil(1, range(6, 11), 10), *distil(2, range(1, 4), 10)]
    one, two = drawn(charts.loss(events))["data"]
    assert plain(one["x"]) == list(range(1, 11)) and plain(two["x"]) == [11, 12, 13]
    assert plain(one["y"]) == pytest.approx([1 + 1 / s for s in range(1, 11)]) and plain(two["y"]) == pytest.approx([3, 2.5, 2 + 1 / 3])
    assert (one["name"], two["name"]) == ("round 1", "round 2") and one["line"]["color"] != two["line"]["color"]


def test_loss_before_anything_was_learnt():
    assert charts.loss([dict(phase="think", round=1, step=1, total=2)]) == ""  # an empty chart says what will be there
    long = drawn(charts.loss(distil(1, range(1, 20_001), 20_000)))["data"][0]
    assert len(plain(long["x"])) <= charts.MOST_POINTS + 1 and plain(long["x"])[0] == 1 and plain(long["x"])[-1] == 20_000


@pytest.mark.parametrize("n", [0, 1, 2, 799, 800, 801, 802, 1599, 1600, 1601, 12_345])
def test_thinned_keeps_the_ends(n):
    rows = charts.thinned(list(range(n)))
    assert len(rows) <= charts.MOST_POINTS + 1 and rows == sorted(set(rows)) and (rows == list(range(n)) if n <= 800 else len(rows) >= 400)
    assert not n or (rows[0], rows[-1]) == (0, n - 1)


def test_accuracy_bands_hold_their_line():
    """A band goes there and back: the upper edge, then the lower one reversed."""
    measured = [measure(r, c, k) for r, (i, t) in enumerate([(35, 99), (62, 100), (75, 0)]) for c, k in (("instruct", i), ("thinking", t))]
    bands = drawn(charts.accuracy(measured))["data"]
    assert [t.get("name") for t in bands[1::2]] == ["instruct", "thinking"]
    for band, line in zip(bands[::2], bands[1::2]):
        x, y = plain(band["x"]), plain(band["y"])
        assert x == [0, 1, 2, 2, 1, 0] and plain(line["x"]) == [0, 1, 2] and band["fill"] == "toself"
        high, low = y[:3], y[:2:-1]
        assert all(0 <= lo <= at <= hi <= 100 for lo, at, hi in zip(low, plain(line["y"]), high)) and all(hi - lo > 3 for lo, hi in zip(low, high))
    assert bands[1]["text"][0] == "35/100 = 35.0 % [26.4, 44.7]"
    assert bands[1]["marker"]["symbol"] != bands[3]["marker"]["symbol"]  # told apart without colour, too


def test_every_figure_is_json():
    rows = [dict(measure(0, "instruct", right), t=t) for t, right in ((0.0, 30), (0.5, 5), (1.0, 90))]
    right, think = map(drawn, charts.spectrum({"the pair": rows, "a run · round 1": rows}, [0.5], 0.75))
    assert len(right["data"]) == 4 and [s["type"] for s in right["layout"]["shapes"]] == ["rect", "line"] and right["layout"]["shapes"][0]["x0"] < 0.5 < right["layout"]["shapes"][0]["x1"]
    assert "flip 0.75" in json.dumps(right["layout"]["annotations"]) and len(think["data"]) == 4
    assert charts.spectrum({}, [], None) == ("", "") and charts.accuracy([]) == "" and len(drawn(charts.tokens([measure(0, "instruct", 3)]))["data"]) == 4
    heat = drawn(charts.heatmap("x", ["q", "k"], [[1.0, None], [float("nan"), 2.0]], "°", "Blues", zmin=0))["data"][0]
    assert heat["z"] == [[1.0, None], [None, 2.0]]
    strip = drawn(charts.probability([0.0, 0.5, 1.0], [0.0, 0.2, 1.0], 0.3))
    assert strip["layout"]["shapes"][0]["x0"] == 0.3 and plain(strip["data"][0]["y"]) == [0, 0.2, 1]


def test_rgba():
    assert charts.rgba("#10ff80", 0.5) == "rgba(16,255,128,0.5)"


# ---- turns


def wait(until, seconds=10.0):
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)


def queued(lane, *works):
    """Threads that have entered the lane's line in this order while the caller holds it."""
    threads = []
    for work in works:
        ahead = len(lane._line)
        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()
        wait(lambda: len(lane._line) == ahead + 1)
    return threads


def test_a_lane_is_first_come_first_served():
    lane, order, inside = FairLock(), [], []

    def work(name):
        def go():
            with lane.turn():
                inside.append(name)
                assert inside == [name]
                order.append(name)
                time.sleep(0.01)
                inside.remove(name)
        return go

    with lane.turn():
        threads = queued(lane, *map(work, range(6)))
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == list(range(6))
    with lane.turn():  # and it is free again
        pass


def test_pass_on_goes_round(monkeypatch):
    """Three decodes whose steps last a turn: each gets every third one, and who ends leaves the round."""
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.0)
    lane, steps = FairLock(), []

    def work(name, n):
        def go():
            with lane.turn():
                for _ in range(n):
                    steps.append(name)
                    lane.pass_on()
        return go

    with lane.turn():
        threads = queued(lane, work("a", 3), work("b", 1), work("c", 2))
    for thread in threads:
        thread.join(10)
    assert "".join(steps) == "abcaca"


def test_quick_steps_are_many_a_turn(monkeypatch):
    """A question's steps of 2 ms beside a sweep's of 100 ms: one for one, the question would take fifty times as long."""
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.05)
    lane, steps = FairLock(), []

    def work(name, n, seconds):
        def go():
            with lane.turn():
                for _ in range(n):
                    steps.append(name)
                    time.sleep(seconds)
                    lane.pass_on()
        return go

    with lane.turn():
        threads = queued(lane, work("q", 20, 0.005), work("s", 4, 0.06))
    for thread in threads:
        thread.join(10)
    assert "".join(steps).index("s") >= 5 and steps[-2:] == ["s", "s"] and len(steps) == 24


def test_pass_on_alone_costs_no_turn():
    lane = FairLock()
    with lane.turn():
        for _ in range(1000):
            lane.pass_on()
        assert len(lane._line) == 1


def test_an_exception_in_a_turn_gives_the_model_back():
    lane, reached = FairLock(), threading.Event()
    with pytest.raises(ZeroDivisionError):
        with lane.turn():
            [thread] = queued(lane, lambda: (lane._enter(), reached.set(), lane._leave()))
            1 / 0
    assert reached.wait(10)
    thread.join(10)
    assert not lane._line


# ---- visitors and tasks


def test_a_newer_wish_ends_an_older_one_of_its_name_only():
    visitor = Session()
    first, other = visitor.wish("blend"), visitor.wish("ends")
    assert not first() and not other()
    second = visitor.wish("blend")
    assert first() and not second() and not other()
    assert not Session().wish("blend")() and first()
    stops = visitor.stops
    visitor.stop()
    assert visitor.stops == stops + 1 and not second()  # a stop is visible, a newer wish is silent


def test_a_visitor_who_leaves_is_stopped_and_forgotten():
    studio = Studio(Preset(), "none")
    one, two = studio.visitor("s1"), studio.visitor("s2")
    assert studio.visitor("s1") is one
    studio.left("s1")
    studio.left("never came")
    assert one.stops == 1 and two.stops == 0 and studio.visitor("s1") is not one


def test_a_task_tells_how_far_it_is_and_what_came_of_it():
    step = threading.Event()

    def work(cancelled):
        yield "write", 1, 4
        step.wait(10)
        yield "verify", 4, 4
        return "folder"

    task = BackgroundTask("export", work)
    wait(lambda: task.done == 1)
    assert (task.stage, task.total, task.ended, task.result) == ("write", 4, False, None)
    step.set()
    wait(lambda: task.ended)
    assert (task.stage, task.done, task.result, task.error) == ("verify", 4, "folder", None)


@pytest.mark.parametrize("error, says", [(UserError("the disk is full; mend that"), "the disk is full; mend that"), (KeyError("x"), "KeyError: 'x'")])
@pytest.mark.parametrize("begun", [True, False])
def test_a_task_that_fails_says_why(error, says, begun, capsys):
    """Before or after its first step. A traceback is for the console, where the error is ours."""
    def work(cancelled):
        if begun:
            yield "write", 1, 2
        raise error
        yield

    task = BackgroundTask("export", work)
    wait(lambda: task.ended)
    assert task.error == says and task.result is None
    assert ("Traceback" in capsys.readouterr().err) is isinstance(error, KeyError)


def test_cancel_closes_the_generator_so_it_can_clean_up():
    """At once, and not only when nobody holds it any more."""
    heard, cleaned, held = [], threading.Event(), []

    def work(cancelled):
        try:
            for n in range(10**6):
                heard.append(cancelled())
                yield "write", n, 10**6
                time.sleep(0.002)
        finally:
            cleaned.set()

    def begin(cancelled):
        held.append(work(cancelled))
        return held[0]

    task = BackgroundTask("export", begin)
    wait(lambda: task.done > 2)
    task.cancel()
    wait(lambda: task.ended)
    assert cleaned.is_set() and task.error == "export was stopped" and task.result is None and heard[0] is False
    assert len(heard) < 10**4


def test_one_task_of_a_name_at_a_time():
    studio, go = Studio(Preset(), "none"), threading.Event()

    def work(cancelled):
        yield "wait", 0, 1
        go.wait(10)

    first = studio.task("sweep", work)
    with pytest.raises(UserError, match="sweep is at work already"):
        studio.task("sweep", work)
    other = studio.task("export", work)
    go.set()
    wait(lambda: first.ended and other.ended)
    again = studio.task("sweep", work)
    assert studio.tasks["sweep"] is again is not first
    wait(lambda: again.ended)


# ---- examples and choices


def problems(*kinds):
    return [Problem(f"{i} {kind}", "1", kind) for i, kind in enumerate(kinds)]


def test_examples_are_the_first_ones_of_every_kind():
    assert [p.prompt for p in pick_examples(problems(*["integer"] * 8, *["choice"] * 8))] == ["0 integer", "1 integer", "8 choice", "9 choice"]
    assert [p.prompt for p in pick_examples(problems("integer", "choice", "integer", "choice", "integer"))] == ["0 integer", "1 choice", "2 integer", "3 choice"]
    assert [p.prompt for p in pick_examples(problems(*["text"] * 9))] == ["0 text", "1 text", "2 text", "3 text"]
    assert pick_examples([]) == [] and len(pick_examples(problems("text"))) == 1
    assert len(pick_examples(problems(*["integer", "choice", "math", "text"] * 3))) == 4


def test_examples_cover_three_kinds():
    """two of each of three kinds are six, cut to the first four; a kind that comes late is lost."""
    assert {p.kind for p in pick_examples(problems(*["integer"] * 5, *["choice"] * 5, *["math"] * 5))} == {"integer", "choice", "math"}
    assert len(pick_examples(problems(*["integer"] * 5, *["choice"] * 5, *["math"] * 5))) == 4


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder of runs."""
    monkeypatch.setattr(runs, "ROOT", tmp_path / "runs")
    return tmp_path / "runs"


def test_only_listed_runs_can_be_chosen(root):
    """The choice is text from outside: it must not name a path."""
    studio = Studio(load_preset("tiny"), "tiny")
    runs.create(load_preset("tiny"), root / "mine")
    runs.create(load_preset("tiny"), root.parent / "beside")
    for nothing in (PAIR, "", None):
        assert studio.run_of(nothing) == (None, 0)
    assert studio.run_of("mine · round 2") == (root / "mine", 2)
    for choice in ("../../etc · round 1", "../beside · round 1", f"{root.parent / 'beside'} · round 1", "beside · round 1", ". · round 1", " · round 1", "mine", "mine · round ",
                   "mine · round -1", "mine · round 1.0", "mine · round 1 ", "mine/ · round 1", "mine · round 1 · round x", "\0 · round 1"):
        with pytest.raises(UserError, match="any more; choose another round"):
            studio.run_of(choice)
    for name in ("../beside", "beside", str(root / "mine"), "", None):
        with pytest.raises(UserError):
            loop.folder_of(name)
    assert loop.folder_of("mine") == root / "mine"


@pytest.mark.parametrize("number", ["²", "9" * 5000], ids=["superscript", "endless"])
def test_an_odd_round_number_is_refused_in_words(root, number):
    """"²".isdigit() is true, and int() of either raises ValueError."""
    runs.create(load_preset("tiny"), root / "mine")
    with pytest.raises(UserError):
        Studio(load_preset("tiny"), "tiny").run_of(f"mine · round {number}")


def test_choices_are_the_finished_rounds_of_this_pair(root):
    studio = Studio(load_preset("tiny"), "tiny")
    assert studio.choices() == [PAIR]
    for name, preset, count in (("old", load_preset("tiny"), 2), ("other", dataclasses.replace(load_preset("tiny"), thinking="elsewhere"), 2), ("new", load_preset("tiny"), 1)):
        runs.create(preset, root / name)
        for number in range(count + 1):
            runs.write_atomic(root / name / "rounds" / str(number) / "recipe.json", "{}")
        time.sleep(0.02)
    (root / "refused").mkdir()
    (root / "refused" / "run.json").touch()
    (root / "damaged").mkdir()
    (root / "damaged" / "preset.yaml").write_text("zebra: 1")
    assert studio.choices() == [PAIR, "new · round 1", "old · round 2", "old · round 1"]
    assert {name for _, name in studio.board()[1]} == {"old", "other", "new", "refused", "damaged"} and studio.board()[0] == studio.choices()


def test_one_damaged_run_does_not_take_the_page_away(root):
    """The board, which every page asks every second and which builds the page, raised for one bad line in one run; later for "rounds/1 copy"."""
    for name in ("good", "bad"):
        runs.create(load_preset("tiny"), root / name)
        runs.append(root / name / "events.jsonl", runs.Event(0, "done").to_dict())
    with open(root / "bad" / "events.jsonl", "a") as file:
        file.write("nonsense\n")
    for odd in ("1 copy", "abc", "²"):
        runs.write_atomic(root / "good" / "rounds" / odd / "recipe.json", "{}")
    runs.write_atomic(root / "good" / "run.json", '{"pid": "12", "started": null, "heartbeat": "x"}')
    listing = Studio(load_preset("tiny"), "tiny").board()[1]
    assert {name for _, name in listing} == {"good", "bad"} and ("good – done", "good") in listing and ("bad – damaged", "bad") in listing


def test_the_page_starts_the_preset_that_its_form_holds(root, monkeypatch):
    """The command is read back by the real parser."""
    from thinkswitch.cli.main import parser
    started = []
    monkeypatch.setattr(runs, "start", lambda arguments, folder: started.append((arguments, folder)))  # a child imports torch for seconds: see test_runs
    studio = Studio(load_preset("tiny"), "tiny")
    wanted = form.read(studio.preset, {"rounds": 2, "learning_rate": 1e-5, "four_bit": "false", "schedule": "{mlp: 0.5}", "prompt_template": "a 'b' {prompt}"})
    folder, command = studio.start(wanted)
    assert started == [(command, folder)] and folder.parent == root
    args = parser().parse_args(command)
    assert (args.preset, args.out) == ("tiny", folder) and apply_settings(load_preset(args.preset), args.set) == wanted
    assert "--set" not in studio.start(studio.preset)[1]


def test_a_run_that_never_began_says_why(root):
    (root / "x").mkdir(parents=True)
    (root / "x" / "run.json").touch()
    (root / "x" / "log.txt").write_text("run folder: x\nerror: <b>rounds</b> must lie between 1 and 100\n\n")
    told = loop.progress_html(root / "x", "refused", [])
    assert "x did not start: &lt;b&gt;rounds&lt;/b&gt; must lie" in told and "error:" not in told


# ---- one live blend, real decodes


@pytest.fixture(scope="module")
def studio():
    """The embedded pair, loaded as the page does it, but awaited."""
    studio = Studio(load_preset("tiny"), "tiny")
    with pytest.raises(UserError, match="is not loaded yet"):
        studio.ready()
    studio._load(studio.preset, "tiny")
    assert studio.status == "Ready" and studio.ready() is studio.loaded
    return studio


def rows(studio, prompt, ts, tokens=40, choice=PAIR):
    from thinkswitch import evaluate
    from thinkswitch.generate import Sampling
    points = studio.points(studio.loaded, choice, ts, Schedule())
    return [evaluate.question(studio.loaded.pair, studio.loaded.preset, prompt, t, p, settings=Sampling(max_new_tokens=tokens)) for t, p in zip(ts, points)]


def said(news) -> dict:
    """Last chunk of every row."""
    latest = {}
    for one in news:
        if not isinstance(one, int):
            latest |= one
    return {i: (c.text, c.finish) for i, c in latest.items()}


def test_visitors_who_decode_at_once_read_what_they_would_alone(studio):
    """Six threads, of which four share the model and two wait in line."""
    asks = [(f"What is {n} + 5 - 2 + 7?", [0.0, 0.3 + n / 20, 1.0][: 1 + n % 3] + [1.0]) for n in range(3, 9)]
    asked = [rows(studio, *ask) for ask in asks]
    alone = [said(studio.decode(studio.loaded, one, lambda: False)) for one in asked]
    got, lines = {}, []

    def visit(i):
        news = list(studio.decode(studio.loaded, asked[i], lambda: False))
        lines.append({n for n in news if isinstance(n, int)})
        got[i] = said(news)

    prepared = [threading.Thread(target=visit, args=(i,), daemon=True) for i in range(6)]
    with studio.lane.turn():  # all are at the door before the first step
        for thread in prepared:
            thread.start()
        wait(lambda: len(studio.decoding) == 6 and len(studio.lane._line) == 5)
    for thread in prepared:
        thread.join(60)
    assert [got[i] for i in range(6)] == alone
    assert lines.count(set()) == 4 and {1} in lines and any(2 in told for told in lines)  # who waits is told how many are ahead
    assert studio.decoding == [] and not studio.lane._line
    assert alone[0][1][0].endswith("\\boxed{13}")  # 3 + 5 - 2 + 7, thought


def test_stop_ends_a_decode_at_its_next_step_and_frees_the_model(studio):
    looks = []
    news = list(studio.decode(studio.loaded, rows(studio, "What is 4 + 5 - 2?", [0.9, 1.0]), lambda: looks.append(1) or len(looks) > 6))
    last = {i: c for one in news for i, c in one.items()}
    assert {(c.finish, c.tokens) for c in last.values()} == {("cancel", 6)} and all(c.text for c in last.values())
    assert studio.decoding == [] and not studio.lane._line
    assert set(said(studio.decode(studio.loaded, rows(studio, "What is 4 + 5 - 2?", [0.0, 1.0]), lambda: True)).values()) == {("", "cancel")}


def test_a_page_hears_seldom_enough_to_stay_alive(studio, monkeypatch):
    """Every turn of 60 ms was a message to the page; on two cores the browser was at work all the time, and a click took half a minute."""
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.0)
    ask = lambda: list(studio.decode(studio.loaded, rows(studio, "What is 4 + 5 - 2?", [1.0]), lambda: False))
    monkeypatch.setattr(studio_module, "NEWS", 0.0)
    every = ask()
    monkeypatch.setattr(studio_module, "NEWS", 3600)
    first, last = ask()  # at once, and whole
    assert len(every) > 10 and first[0] == every[0][0] and last[0] == every[-1][0]


def test_a_page_that_goes_away_in_the_middle_leaves_the_model_free(studio, monkeypatch):
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.0)
    ask = lambda: studio.decode(studio.loaded, rows(studio, "What is 4 + 5 - 2?", [1.0]), lambda: False)
    news = ask()
    assert next(news)[0].finish is None
    news.close()
    assert studio.decoding == [] and not studio.lane._line
    assert said(ask())[0][0].endswith("\\boxed{7}")


def test_another_pair_ends_the_decodes_of_the_old_one(studio, monkeypatch):
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.0)
    old = studio.loaded
    news = studio.decode(old, rows(studio, "What is 4 + 5 - 2?", [1.0]), lambda: False)
    next(news)
    try:
        studio.loaded = dataclasses.replace(old)
        assert {finish for _, finish in said(news).values()} == {"cancel"}
    finally:
        studio.loaded = old


def test_rounds_of_runs_join_the_live_blend_once(studio, root):
    """Two runs, read from disk as the loop leaves them: each round's points lie in the basis of the one blend."""
    from safetensors.torch import save_file
    pair, told = studio.loaded.pair, {}
    for name, seeds in (("a", (1, 2)), ("b", (3,))):
        runs.create(load_preset("tiny"), root / name)
        state = rounds.start(pair)
        for number, seed in enumerate(seeds, 1):
            adapter = random_adapter(pair, seed, rank=2)
            folder = root / name / "rounds" / str(number) / "adapter"
            folder.mkdir(parents=True)
            tensors = {f"base_model.model.{n.removesuffix('.weight')}.lora_{side}.weight": t.contiguous() for n, ab in adapter.low_rank.items() for side, t in zip("AB", ab)}
            save_file(tensors, folder / "adapter_model.safetensors")
            (folder / "adapter_config.json").write_text(json.dumps(dict(r=2, lora_alpha=2)))
            state = rounds.rebuild(pair, state, adapter, 0.8, "original", Schedule())
            rounds.write(root / name, state)
            told[f"{name} · round {number}"] = state
    sides = studio.loaded.blend.sides
    for choice in ("a · round 1", "b · round 1", "a · round 2", "a · round 1", "b · round 1"):
        round, places = studio.round(studio.loaded, choice)
        assert round.point(0.4) == told[choice].point(0.4)
        [point] = studio.points(studio.loaded, choice, [0.4], Schedule())
        assert point == recipe.remap_adapters(told[choice].point(0.4), places)
    assert studio.loaded.blend.sides == sides + 3  # three adapters, each once
    assert len(set(studio.loaded.places.values())) == len(studio.loaded.places)
    with pytest.raises(UserError, match="has no round 7"):
        studio.round(studio.loaded, "a · round 7")


def test_a_pair_that_cannot_be_opened_says_so_and_keeps_the_old_one(studio):
    before = studio.loaded
    studio._load(dataclasses.replace(studio.preset, thinking=str(TINY / "nothing")), "broken")
    assert studio.failed and "nothing" in studio.status and studio.loaded is before and studio.source == "tiny"
    studio.failed, studio.status = False, "Ready"


# ---- Explore's schedules


def test_explore_names_the_ablations_that_the_engine_has(studio):
    assert tuple(recipe.ablations(4)) == explore.NAMES and explore.UNIFORM == explore.NAMES[0]
    assert explore.ablations(studio) == recipe.ablations(studio.loaded.pair.config.num_hidden_layers)


def test_a_depth_curve_as_people_write_it():
    assert explore.schedule_of((1, 0.5, 1, 0, "0, 0.5;1 ,")) == Schedule(1, 0.5, 1, 0, (0, 0.5, 1))
    assert explore.schedule_of((1, 1, 1, 1, "1")) == Schedule()
    for depth, says in (("0, a", "write numbers with commas"), ("", "depth must hold"), ("3", "depth must lie between 0 and 2"), ("nan", "depth must lie"), (None, "write numbers")):
        with pytest.raises(UserError, match=says):
            explore.schedule_of((1, 1, 1, 1, depth))
    assert explore.short(Schedule(mlp=0.5, depth=(0.0, 1.0))) == "mlp 0.5, depth curve" and explore.short(Schedule()) == ""


def test_layers_by_modules_leave_nothing_in_a_layer_out(studio):
    names = studio.loaded.pair.names
    columns, cells = explore.grid({n: float(i) for i, n in enumerate(names)})
    layered = [n for n in names if recipe.layer_of(n) is not None]
    assert sorted(x for row in cells for x in row) == sorted(float(names.index(n)) for n in layered)
    assert len(cells) == studio.loaded.pair.config.num_hidden_layers and {"q_proj", "down_proj", "input_layernorm"} <= set(columns)


def test_the_blend_s_colour_is_as_far_as_t_is():
    assert theme.blend_edge(0) == f"color-mix(in oklab, {theme.INSTRUCT} 100%, {theme.THINKING})"
    assert theme.blend_edge(1) == f"color-mix(in oklab, {theme.INSTRUCT} 0%, {theme.THINKING})"
    assert [theme.blend_edge(t).split("%")[0].split()[-1] for t in (0.25, 0.5, 0.8)] == ["75", "50", "20"]
    assert theme.INSTRUCT != theme.THINKING


def test_what_is_not_ours_is_escaped():
    assert theme.bad('<img src=x onerror="x()"> & co') == '<span class="bad">&lt;img src=x onerror=&quot;x()&quot;&gt; &amp; co</span>'
    sweep = [dict(measure(0, "instruct", 30), t=0.0), dict(measure(0, "thinking", 90), t=1.0)]
    assert "<script>" not in explore.verdict_html("<script>x</script>", sweep) and "&lt;script&gt;" in explore.verdict_html("<script>x</script>", sweep)


@pytest.mark.parametrize("done, total, width", [(0, 0, "0.0"), (0, 4, "0.0"), (1, 3, "33.3"), (9, 4, "100.0")])
def test_bars(done, total, width):
    assert f"width:{width}%" in theme.bar(done, total)


# ---- a stage, and who may call


def test_a_stage_takes_no_paths_whatever_is_sent():
    from ui.tabs import models
    tiny = load_preset("tiny")
    sent = ("tiny", "/etc", "owner/model")
    assert models.wanted(Studio(tiny, "tiny", demo=True), ["tiny"], *sent) == tiny
    assert models.wanted(Studio(tiny, "tiny"), ["tiny"], *sent).instruct == "/etc"
    with pytest.raises(UserError, match="no preset '../x'"):
        models.wanted(Studio(tiny, "tiny", demo=True), ["tiny"], "../x", "", "")


def test_a_stage_limits_the_tokens_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="at most 512 tokens"):
        Studio(load_preset("tiny"), "tiny", demo=True).start(make_preset(dict(think_tokens=513), base=load_preset("tiny")))
    assert not (tmp_path / "runs").exists()


def test_hosts_are_this_machine_s_names_only():
    import app
    local = app.hosts(app.parser().parse_args([]))
    assert set(local) == {"127.0.0.1", "localhost", "[::1]", "::1"}
    wide = app.hosts(app.parser().parse_args(["--host", "0.0.0.0"]))
    assert set(local) < set(wide) and "*" not in wide and not any(name.startswith("*") for name in wide)
    assert "*.gradio.live" in app.hosts(app.parser().parse_args(["--share"]))


def test_a_stage_tells_names_of_files_and_no_way_to_them():
    text = "held_out asks for 400, /srv/models/tiny/held_out.jsonl has 1; qiaojin/PubMedQA and 60/60 stay, C:\\Users\\me\\x.yaml goes"
    told = Studio(load_preset("tiny"), "tiny", demo=True).public(text)
    assert "held_out.jsonl has 1" in told and "/srv" not in told and "Users" not in told and "qiaojin/PubMedQA and 60/60 stay" in told
    assert Studio(load_preset("tiny"), "tiny").public(text) == text


def test_who_gave_up_is_not_counted_as_ahead(monkeypatch):
    """One visitor pressed Run 150 times and was told that 34 were ahead of him: his own clicks."""
    studio = Studio(load_preset("tiny"), "tiny")
    mine, given_up, busy = (lambda: False), (lambda: True), (lambda: False)
    studio.decoding[:] = [busy, *[given_up] * 34, busy, mine]
    assert studio._ahead(mine) == 2


def test_a_long_prompt_is_refused_before_the_strip_is_asked(studio):
    """The columns refused 4000 characters; the strip took them 21 times and kept everybody waiting for 17 s."""
    from ui.tabs import compare
    ask = compare.Ask("7 + " * 2000 + "1", 0.5, PAIR, "auto", "greedy", 0.6, 0.95, 20, 0, 0, Schedule())
    with pytest.raises(UserError, match="the prompt is too long: .* room for 1024"):
        compare.checked(studio, studio.loaded, ask)
    began = time.monotonic()
    assert compare.probability_strip(studio, ask)["__type__"] == "update" and time.monotonic() - began < 2
    for field, value in (("top_k", -1), ("limit", -5), ("seed", -2)):
        with pytest.raises(UserError, match=f"must be at least 0, it is {value}"):
            compare.checked(studio, studio.loaded, dataclasses.replace(ask, prompt="1 + 2?", **{field: value}))


def test_a_stage_offers_only_pairs_that_are_here():
    """Since presets of Hub ids ship, the drop-down would have let a visitor fetch 16 GB."""
    from ui.tabs import models
    offered = [name for name in (p.stem for p in PRESETS.glob("*.yaml")) if models.is_here(load_preset(name))]
    assert offered == ["tiny"]
    with gr.Blocks() as page:
        models.build(Studio(load_preset("tiny"), "tiny", demo=True))
    assert [c.choices for c in page.blocks.values() if getattr(c, "elem_id", "") == "models-preset"] == [[("tiny", "tiny")]]
