"""How a pair gets into memory."""

import dataclasses
import gc
import threading
import weakref

import pytest

from conftest import TINY, wait
from thinkswitch.cli.main import parser
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, apply_settings, load_preset, make_preset
from thinkswitch.problems import Problem
from thinkswitch.weights.prompting import prompting_of
from ui.download import Cancelled, fetch_command
from ui.pair_loader import PairLoader, pick_examples


def problems(*kinds):
    return [Problem(f"{i} {kind}", "1", kind) for i, kind in enumerate(kinds)]


def prompts(*kinds):
    return [problem.prompt for problem in pick_examples(problems(*kinds))]


def test_examples_are_the_first_ones_of_every_kind():
    two_kinds = ["integer"] * 8 + ["choice"] * 8
    assert prompts(*two_kinds) == ["0 integer", "1 integer", "8 choice", "9 choice"]
    mixed = ["integer", "choice", "integer", "choice", "integer"]
    assert prompts(*mixed) == ["0 integer", "1 choice", "2 integer", "3 choice"]
    assert prompts(*["text"] * 9) == ["0 text", "1 text", "2 text", "3 text"]
    assert prompts() == [] and len(prompts("text")) == 1
    assert len(prompts(*["integer", "choice", "math", "text"] * 3)) == 4


def test_examples_cover_three_kinds():
    """Two of each of three kinds are six, cut to the first four: a kind that comes late was lost."""
    held_out = problems(*["integer"] * 5, *["choice"] * 5, *["math"] * 5)
    examples = pick_examples(held_out)
    assert {problem.kind for problem in examples} == {"integer", "choice", "math"} and len(examples) == 4


@pytest.fixture
def loader():
    released = []
    loader = PairLoader(load_preset("tiny"), "tiny", released=lambda rounds: released.append(loader.loaded))
    loader.calls = released
    load(loader, loader.preset, "tiny")
    assert loader.status == "Ready" and not loader.failed
    return loader


def load(loader, preset, source):
    loader.load(preset, source)
    wait(lambda: not loader.loading, 120)


def test_two_pairs_are_not_loaded_at_once():
    loader = PairLoader(load_preset("tiny"), "tiny", released=lambda rounds: None)
    loader.load(loader.preset, "tiny")
    with pytest.raises(UserError, match="tiny is still being loaded; wait until it is ready"):
        loader.load(loader.preset, "tiny")
    with pytest.raises(UserError, match="the pair is not loaded yet"):
        loader.ready()
    wait(lambda: not loader.loading, 120)


def test_a_pair_that_cannot_be_opened_says_so_and_keeps_the_old_one(loader):
    before = loader.loaded
    broken = dataclasses.replace(loader.preset, thinking=str(TINY / "nothing"))
    load(loader, broken, "broken")
    assert loader.failed and "nothing" in loader.status
    assert loader.loaded is before and loader.source == "tiny" and loader.ready() is before
    load(loader, dataclasses.replace(loader.preset, device="cuda"), "broken")  # conftest hides GPUs
    assert loader.failed and "cuda" in loader.status and loader.loaded is before


def test_the_old_pair_has_gone_before_it_is_decided_how_the_new_one_fits(loader, monkeypatch):
    """Loading a pair again on a card that it half fills chose 4 bits: the old one still took the memory."""
    from thinkswitch import memory_plan

    old = weakref.ref(loader.loaded.blend)
    decide = memory_plan.resolve_machine
    seen = []

    def deciding(*args):
        seen.append(old())
        return decide(*args)

    monkeypatch.setattr(memory_plan, "resolve_machine", deciding)
    gc.collect()
    load(loader, loader.preset, "tiny")
    assert seen == [None] and loader.loaded is not None and loader.calls[-1] is None


def test_a_load_that_fails_late_brings_the_old_pair_back(loader, monkeypatch):
    """Its memory was needed, so it had gone already; then there was no pair at all."""
    from thinkswitch.weights import live_blend

    real, calls = live_blend.Blend, []

    def full_at_first(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return real(*args, **kwargs)

    monkeypatch.setattr(live_blend, "Blend", full_at_first)
    load(loader, dataclasses.replace(loader.preset, name="large"), "large")
    assert loader.failed and loader.status.startswith("large does not fit into free memory")
    assert loader.ready().preset.name == "tiny" and (loader.source, loader.preset.name) == ("tiny", "tiny")
    assert len(calls) == 2


def test_reading_weights_can_be_cancelled(loader, monkeypatch):
    from thinkswitch.weights import live_blend

    real, asked = live_blend.Blend, threading.Event()
    going_on = threading.Event()

    def slow(pair, progress, **machine):
        if not asked.is_set():
            progress(1, 4)
            going_on.set()
            asked.wait(120)
            progress(2, 4)
        return real(pair, progress=progress, **machine)

    monkeypatch.setattr(live_blend, "Blend", slow)
    loader.load(dataclasses.replace(loader.preset, name="large"), "large")
    going_on.wait(120)
    assert loader.can_cancel and loader.progress == (1, 4)
    loader.cancel()
    asked.set()
    wait(lambda: not loader.loading, 120)
    assert loader.status == "Loading cancelled" and loader.cancelled and loader.failed
    assert loader.ready().preset.name == "tiny" and not loader.can_cancel
    loader.cancel()  # nothing is on its way
    load(loader, loader.preset, "tiny")
    assert loader.status == "Ready" and not loader.failed


def test_a_pair_that_does_not_fit_is_one_sentence(loader, monkeypatch):
    from thinkswitch.weights import live_blend

    def full(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(live_blend, "Blend", full)
    load(loader, loader.preset, "tiny")
    assert loader.failed and loader.loaded is None
    assert loader.status == "tiny does not fit into free memory; close other programs, or take a smaller pair"
    with pytest.raises(UserError, match="the pair is not loaded: tiny does not fit"):
        loader.ready()


def test_held_out_problems_are_known_before_torch_is_imported():
    loader = PairLoader(load_preset("tiny"), "tiny", released=lambda rounds: None)
    assert len(loader.problems) == 400 and len(loader.examples) == 4
    assert PairLoader(Preset(), "none", released=lambda rounds: None).problems == {}


# ---- a pair whose weights have to come from the Hub


class FakeDownload:
    """Half of it is here; then it ends as the test says."""

    names, size = "other-1B", 270_000_000

    def __init__(self, command, missing):
        self.went_on = threading.Event()
        self.ending: Exception | None = None

    def run(self, report):
        report(self.size / 2)
        self.went_on.wait(120)
        if self.ending:
            raise self.ending

    def cancel(self):
        self.ending = Cancelled("Download cancelled")
        self.went_on.set()


@pytest.fixture
def downloading(loader, monkeypatch):
    """`loader` with tiny in memory and tiny again on its way, as if it were not here."""
    monkeypatch.setattr("ui.pair_loader.Download", FakeDownload)
    monkeypatch.setattr("thinkswitch.weights.pair.missing_weights", lambda pair: ["some"])
    loader.before = loader.loaded
    loader.load(loader.preset, "again")
    wait(lambda: loader.progress[0], 120)
    return loader


def test_the_old_pair_stays_in_use_until_everything_is_here(downloading):
    assert downloading.status == "Downloading other-1B: 135 of 270 MB"
    assert downloading.progress == (135e6, 270e6)
    assert downloading.ready() is downloading.before and not downloading.calls
    downloading.download.went_on.set()
    wait(lambda: not downloading.loading, 120)
    assert downloading.status == "Ready" and downloading.loaded is not downloading.before
    assert downloading.source == "again" and downloading.download is None and len(downloading.calls) == 1


def test_a_cancelled_download_is_no_error_and_keeps_the_old_pair(downloading):
    downloading.cancel()
    wait(lambda: not downloading.loading, 120)
    assert downloading.status == "Download cancelled" and downloading.cancelled
    assert downloading.ready() is downloading.before and downloading.source == "tiny"
    downloading.cancel()  # there is none any more
    downloading.load(dataclasses.replace(downloading.preset, device="cuda"), "broken")
    wait(lambda: not downloading.loading, 120)
    assert downloading.failed and not downloading.cancelled


def test_a_download_that_fails_says_its_own_sentence_and_keeps_the_old_pair(downloading):
    downloading.download.ending = UserError("lab/other is gated")
    downloading.download.went_on.set()
    wait(lambda: not downloading.loading, 120)
    assert downloading.status == "lab/other is gated" and downloading.failed and not downloading.cancelled
    assert downloading.ready() is downloading.before


def test_what_is_on_its_way_is_named(downloading):
    """It said that tiny was still being loaded, while another pair was."""
    downloading.cancel()
    wait(lambda: not downloading.loading, 120)
    downloading.load(dataclasses.replace(downloading.preset, name="other"), "other")
    with pytest.raises(UserError, match="other is still being loaded"):
        downloading.load(downloading.preset, "tiny")
    wait(lambda: downloading.progress[0], 120)
    downloading.cancel()
    wait(lambda: not downloading.loading, 120)


def test_the_child_is_asked_for_the_pair_as_it_was_accepted():
    """A template that needs an argument was refused by the child without it."""
    preset = make_preset(
        {
            "instruct": "lab/a",
            "thinking": "lab/b+c",
            "think_tags": ["<a>", "</a>"],
            "instruct_template_args": {"enable_thinking": False},
            "thinking_template_args": {"enable_thinking": True},
            "instruct_system": "Be quick.\nBe brief.",
            "thinking_system": "x = 'y'",
        }
    )
    _, *python, verb = fetch_command(preset)[:4]
    args = parser().parse_args(fetch_command(preset)[3:])
    assert (python, verb, args.instruct, args.thinking) == (
        ["-m", "thinkswitch"],
        "fetch",
        "lab/a",
        "lab/b+c",
    )
    assert prompting_of(apply_settings(Preset(), args.set)) == prompting_of(preset)
    assert fetch_command(Preset(instruct="a", thinking="b"))[4:] == ["a", "b"]
