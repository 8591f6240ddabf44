"""Runs as the page sees them."""

import dataclasses
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.preset import apply_settings, load_preset
from ui import meter, run_control
from ui.loop import form
from ui.pulse import News
from ui.run_control import PAIR, RunControl
from ui.studio import Studio
from unit.test_charts import measure

TINY_PAIR = (load_preset("tiny").instruct, load_preset("tiny").thinking)
NOT_LISTED = [
    "../../etc · round 1",
    "../beside · round 1",
    "beside · round 1",
    ". · round 1",
    " · round 1",
    "mine",
    "mine · round ",
    "mine · round -1",
    "mine · round 1.0",
    "mine · round 1 ",
    "mine/ · round 1",
    "mine · round 1 · round x",
    "\0 · round 1",
]


def test_only_listed_runs_can_be_chosen(root):
    """The choice is text from outside: it must not name a path."""
    control = RunControl()
    runs.create(load_preset("tiny"), root / "mine")
    runs.create(load_preset("tiny"), root.parent / "beside")
    for nothing in (PAIR, "", None):
        assert control.run_of(nothing) == (None, 0)
    assert control.run_of("mine · round 2") == (root / "mine", 2)
    for choice in [*NOT_LISTED, f"{root.parent / 'beside'} · round 1"]:
        with pytest.raises(UserError, match="any more; choose another round"):
            control.run_of(choice)
    for name in ("../beside", "beside", str(root / "mine"), "", None):
        with pytest.raises(UserError):
            run_control.folder_of(name)
    assert run_control.folder_of("mine") == root / "mine"


def test_a_slow_look_does_not_undo_a_newer_one(root, monkeypatch):
    """A page drew "a run is going on" after it was told that none is, and Start stayed off for good."""
    runs.create(load_preset("tiny"), root / "mine")
    control = RunControl()
    looking, over = threading.Event(), threading.Event()
    alive = [123]

    def slowly(folder):
        pid = alive[0]
        if not looking.is_set():  # the first look is the slow one
            looking.set()
            over.wait(20)
        return pid

    monkeypatch.setattr(runs, "running_pid", slowly)
    with ThreadPoolExecutor(2) as threads:
        older = threads.submit(control.running)
        assert looking.wait(20)
        alive[0] = None
        newer = threads.submit(control.running)
        wait([newer], timeout=0.5)  # it may wait for the older one
        told = newer.result() if newer.done() else "nothing yet"
        over.set()
        older.result(20)
        drawn = control.running()
        assert told == "nothing yet" or drawn == told


@pytest.mark.parametrize("number", ["²", "9" * 5000], ids=["superscript", "endless"])
def test_an_odd_round_number_is_refused_in_words(root, number):
    """ "²".isdigit() is true, and int() of either raises ValueError."""
    runs.create(load_preset("tiny"), root / "mine")
    with pytest.raises(UserError):
        RunControl().run_of(f"mine · round {number}")


def test_choices_are_the_finished_rounds_of_this_pair(root):
    control = RunControl()
    assert control.choices(TINY_PAIR) == [PAIR]
    tiny = load_preset("tiny")
    other = dataclasses.replace(tiny, thinking="elsewhere")
    for began, (name, preset, count) in enumerate([("old", tiny, 2), ("other", other, 2), ("new", tiny, 1)]):
        runs.create(preset, root / name)
        os.utime(root / name / "preset.yaml", (1e9 + began, 1e9 + began))
        for number in range(count + 1):
            runs.write_atomic(root / name / "rounds" / str(number) / "recipe.json", "{}")
    (root / "refused").mkdir()
    (root / "refused" / "run.json").touch()
    (root / "damaged").mkdir()
    (root / "damaged" / "preset.yaml").write_text("zebra: 1", encoding="utf-8")
    assert control.choices(TINY_PAIR) == [PAIR, "new · round 1", "old · round 2", "old · round 1"]
    listing = control.listing(TINY_PAIR)
    assert {name for _, name in listing.runs} == {"old", "other", "new", "refused", "damaged"}
    assert listing.choices == control.choices(TINY_PAIR)
    assert Studio(tiny, "tiny").board() == (listing.choices, listing.runs)


def test_one_damaged_run_does_not_take_the_page_away(root):
    """The listing, which every page needs, raised for one bad line in one run, and for "rounds/1 copy"."""
    for name in ("good", "bad"):
        runs.create(load_preset("tiny"), root / name)
        runs.append(root / name / "events.jsonl", runs.Event(0, "done").to_dict())
    with open(root / "bad" / "events.jsonl", "a", encoding="utf-8") as file:
        file.write("nonsense\n")
    for odd in ("1 copy", "abc", "²"):
        runs.write_atomic(root / "good" / "rounds" / odd / "recipe.json", "{}")
    runs.write_atomic(root / "good" / "run.json", '{"pid": "12", "started": null, "heartbeat": "x"}')
    listing = RunControl().listing(TINY_PAIR).runs
    dated = [(label.partition(" · ")[0], name) for label, name in sorted(listing)]
    assert dated == [("bad – damaged", "bad"), ("good – done", "good")]


@pytest.fixture
def started(monkeypatch):
    """What would have been started: a child imports torch for seconds, see test_runs."""
    calls = []
    monkeypatch.setattr(runs, "start", lambda arguments, folder: calls.append((arguments, folder)))
    return calls


def test_the_page_starts_the_preset_that_its_form_holds(root, started):
    """The command is read back by the real parser."""
    from thinkswitch.cli.main import parser

    studio = Studio(load_preset("tiny"), "tiny")
    values = {
        "rounds": 2,
        "learning_rate": 1e-5,
        "four_bit": "false",
        "schedule": "{mlp: 0.5}",
        "prompt_template": "a 'b' {prompt}",
    }
    wanted = form.read(studio.preset, values)
    folder, command = studio.start(wanted)
    assert started == [(command, folder)] and folder.parent == root
    args = parser().parse_args(command)
    assert (args.preset, args.out) == ("tiny", folder)
    assert apply_settings(load_preset(args.preset), args.set) == wanted
    assert "--set" not in studio.start(studio.preset)[1]


def test_the_run_that_another_visitor_started_cannot_be_stopped_in_a_demo(root, started, monkeypatch):
    """Any visitor could stop the loop that somebody was showing."""
    stopped = []
    monkeypatch.setattr(runs, "request_stop", stopped.append)
    studio = Studio(load_preset("tiny"), "tiny", demo=True)
    folder, _ = studio.start(studio.preset, "presenter")
    for action in (studio.stop_run, studio.resume):
        with pytest.raises(UserError, match=r"another visitor started run tiny.*; only they can end it"):
            action(folder, "heckler")
    studio.stop_run(folder, "presenter")
    assert stopped == [folder]
    studio.page_closed("presenter")  # also a reload: the presenter comes back with another session
    studio.stop_run(folder, "presenter after a reload")
    assert stopped == [folder, folder]


def test_a_run_that_a_terminal_started_is_only_shown_by_a_demo(root, monkeypatch):
    """Whoever runs the demo had started it before, and any visitor could stop it."""
    monkeypatch.setattr(runs, "request_stop", lambda folder: pytest.fail("it was stopped"))
    studio = Studio(load_preset("tiny"), "tiny", demo=True)
    for action in (studio.stop_run, studio.resume):
        with pytest.raises(UserError, match="run mine was not started from this page"):
            action(root / "mine", "heckler")


def test_events_stay_in_memory_for_the_runs_looked_at_last(root, monkeypatch):
    """A demo that is up for weeks held all events of every run that anybody had ever chosen."""
    monkeypatch.setattr(run_control, "FOLLOWED_RUNS", 2)
    made = []
    follower = runs.Follower
    monkeypatch.setattr(
        runs, "Follower", lambda path, check: made.append(path.parent.name) or follower(path, check)
    )
    control = RunControl()
    for name in ("a", "b", "c"):
        runs.append(root / name / "events.jsonl", runs.Event(0, "think").to_dict())
    for name in ("a", "a", "b", "a", "c", "a", "b"):
        assert len(control.events(root / name)) == 1
    read_anew = [name for i, name in enumerate(made) if name in made[:i]]
    assert "a" not in read_anew and "b" in read_anew  # a was always among the last two


def test_looking_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path / "runs")
    control = RunControl()
    assert control.running() is None and control.listing(TINY_PAIR).choices == [PAIR]
    assert control.events(tmp_path / "runs" / "none") == []
    assert list(tmp_path.iterdir()) == []


# ---- the menu of a run


def test_the_listing_tells_state_result_and_date(root):
    runs.create(load_preset("tiny"), root / "mine")
    os.utime(root / "mine" / "preset.yaml", (1.8e9, 1.8e9))
    events = [measure(number, "instruct", right, 10_000) for number, right in enumerate((2075, 4330))]
    runs.append(root / "mine" / "events.jsonl", *({**event, "time": 1.0} for event in events))
    runs.append(root / "mine" / "events.jsonl", runs.Event(1, "done").to_dict())
    [(label, name)] = RunControl().listing(TINY_PAIR).runs
    assert name == "mine"
    assert re.fullmatch(r"mine – done · instruct 20\.8 → 43\.3 % · 2027-01-1\d", label)


@pytest.mark.parametrize("action", ["rename_run", "delete_run"])
def test_in_a_demo_only_its_owner_renames_or_deletes_a_run(root, started, action):
    studio = Studio(load_preset("tiny"), "tiny", demo=True)
    folder, _ = studio.start(studio.preset, "presenter")
    runs.create(studio.preset, folder)
    runs.create(studio.preset, root / "of nobody")
    arguments = ("new",) if action == "rename_run" else ()
    act = getattr(studio, action)
    for thing, session in ((folder, "heckler"), (folder, None), (root / "of nobody", "heckler")):
        with pytest.raises(UserError, match="only the visitor who started"):
            act(thing, *arguments, session_hash=session)
    act(folder, *arguments, session_hash="presenter")
    assert not folder.exists() and (root / "of nobody").is_dir()
    if action == "rename_run":
        studio.delete_run(root / "new", "presenter")  # it still belongs to them


def test_a_run_in_use_is_neither_renamed_nor_deleted(root, studio, monkeypatch):
    runs.create(studio.preset, root / "mine")
    with (
        studio.loaded.rounds.pin((root / "mine", 1)),
        pytest.raises(UserError, match="mine is in use by Compare, a sweep or an export"),
    ):
        studio.delete_run(root / "mine")
    assert studio.rename_run(root / "mine", "yours") == root / "yours"
    studio.delete_run(root / "yours")
    assert runs.runs_in(root) == []


def test_a_runs_settings_fill_the_form(root):
    tiny = load_preset("tiny")
    used = dataclasses.replace(tiny, rounds=7, lora_rank=4, four_bit=False)
    runs.create(used, root / "mine")
    names = ["rounds", "lora_rank", "four_bit", "train_set", "schedule"]
    values = form.values_of(runs.open_run(root / "mine"), names)
    assert values[:2] == [7, 4]
    assert form.read(tiny, dict(zip(names, values, strict=True))) == used


@pytest.mark.parametrize("uptime", [0.0, 0.4, 5.0, 59.0, 1800.0, 3599.0, 4_000_000.0])
def test_a_machine_that_was_booted_a_moment_ago(root, monkeypatch, uptime):
    """CASES 4: 0 stood for "never" on a clock that counts from the machine's start: nothing was looked up."""
    now = [uptime]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    control, studio = RunControl(), Studio(load_preset("tiny"), "tiny")
    news = News(studio)
    before = news.versions()
    runs.create(load_preset("tiny"), root / "mine")
    assert [name for _, name in control.listing(TINY_PAIR).runs] == ["mine"]
    assert control.running() is None
    runs.write_atomic(root / "mine/rounds/1/recipe.json", "{}")
    with runs.claim(root / "mine"):
        now[0] += 60
        assert control.running() == root / "mine"
        assert "mine · round 1" in control.listing(TINY_PAIR).choices and news.versions() != before
    assert meter.Meter().read().total > 0
