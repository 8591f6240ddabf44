"""Adapters in the live blend: those of the rounds that were looked at last."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ui import live_rounds
from ui.live_rounds import LiveRounds


class Slots:
    """A blend that only knows which adapters it holds; free slots are taken again, as the real one does."""

    def __init__(self):
        self.held = {}

    def add(self, adapter):
        slot = next(i for i in range(1000) if i not in self.held)
        self.held[slot] = adapter
        return slot

    def remove(self, slot):
        del self.held[slot]


@pytest.fixture
def blend(monkeypatch):
    monkeypatch.setattr(live_rounds, "KEPT_ROUNDS", 2)
    return Slots()


def use(live, blend, run, number):
    """Look at a round; its adapters are in the slots that are returned."""
    adapters = [f"{run}{r}" for r in range(1, number + 1)]
    slots = live.use((Path(run), number), SimpleNamespace(adapters=adapters))
    assert [blend.held[slot] for slot in slots] == adapters
    return slots


def held(blend):
    return sorted(blend.held.values())


def test_adapters_of_old_rounds_leave_the_blend(blend):
    """Every round that anybody had ever looked at stayed: a demo grew until it was killed."""
    live = LiveRounds(blend)
    use(live, blend, "a", 3)
    use(live, blend, "b", 1)
    assert held(blend) == ["a1", "a2", "a3", "b1"]
    use(live, blend, "c", 2)
    assert held(blend) == ["b1", "c1", "c2"]
    for _ in range(50):
        for run in "abcdef":
            use(live, blend, run, 2)
    assert held(blend) == ["e1", "e2", "f1", "f2"] and len(live) == 2


def test_rounds_of_one_run_share_their_adapters(blend):
    live = LiveRounds(blend)
    first = use(live, blend, "a", 1)
    assert use(live, blend, "a", 3)[:1] == first
    use(live, blend, "b", 1)  # round 1 of a is the oldest, but round 3 needs its adapter
    assert held(blend) == ["a1", "a2", "a3", "b1"]


def test_what_somebody_is_using_stays(blend):
    """A chart of a round took turns while four other rounds were looked at: its adapters were gone."""
    live = LiveRounds(blend)
    with live.pin((Path("a"), 1)):
        use(live, blend, "a", 1)
        for run in "bcd":
            use(live, blend, run, 1)
        assert held(blend) == ["a1", "c1", "d1"]
    use(live, blend, "d", 1)
    assert held(blend) == ["c1", "d1"]


def test_a_new_pair_waits_for_those_who_use_the_old_one_but_not_for_ever(blend):
    live = LiveRounds(blend)
    live.drain(seconds=1000)
    with live.pin(None):
        assert live.pinned() == {None}
        live.drain(seconds=0.01)
    assert live.pinned() == set()


def test_a_round_looked_at_again_is_a_new_one(blend):
    live = LiveRounds(blend)
    use(live, blend, "a", 1)
    use(live, blend, "b", 1)
    use(live, blend, "a", 1)
    use(live, blend, "c", 1)
    assert held(blend) == ["a1", "c1"]
