"""Files as disks, editors and half-done downloads leave them: no command may end in a traceback or do harm.

The embedded pair, a preset, an adapter and two runs are damaged one file at a time by seeded rules (see
mutators.py). Whatever meets the damage ends in exit 0, or in one sentence and exit 1, within 20 seconds, and
leaves what was there as it was. CONTRIBUTING.md says how to let it run for hours.
"""

import os
import random
import re
import shutil
from collections import Counter
from types import SimpleNamespace

import pytest

from conftest import cli
from process import damage, mutators
from process.commands import Commands

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(its folder, what is in it)"""
    root = tmp_path_factory.mktemp("mutations") / "world"
    damage.make_world(root)
    yield root, damage.snapshot(root)
    shutil.rmtree(root)  # pytest would keep three of them


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    nobody = SimpleNamespace(endpoint="http://127.0.0.1:9")
    started = Commands(nobody, tmp_path_factory.mktemp("home"), offline=True, before=damage.BOARD)
    yield started
    started.close()


@pytest.fixture(scope="module")
def count(request):
    usual = 100 if request.config.getoption("--slow") else 6
    return request.config.getoption("--mutations") or usual


@pytest.mark.parametrize("kind", damage.KINDS)
def test_damage_ends_in_one_sentence_and_harms_nothing(kind, world, commands, count, request):
    root, pristine = world
    seed = request.config.getoption("--mutation-seed")
    ended: Counter = Counter()
    faults = []
    for case in damage.cases(kind, seed, count):
        outcome = damage.try_one(commands, root, pristine, case)
        ended[case.command, outcome.code] += 1
        if outcome.wrong:
            faults.append((case, outcome.rule, outcome.wrong, outcome.output[-1500:]))
    print(
        f"\n{kind}: {count} mutations; "
        + ", ".join(f"{c} {code}: {n}" for (c, code), n in sorted(ended.items()))
    )
    assert not faults, "\n\n".join("\n".join(map(str, fault)) for fault in faults)


@pytest.mark.parametrize(
    "kind, name, rule, command",
    [
        ("config", "pair/instruct/config.json", mutators.truncated, "check"),
        ("template", "pair/thinking/chat_template.jinja", mutators.empty, "ask"),
        ("events", "runs/done/events.jsonl", mutators.line_edited, "status"),
    ],
)
def test_a_process_of_its_own_says_the_same(kind, name, rule, command, world):
    root, pristine = world
    path = root / name
    try:
        path.write_bytes(rule(random.Random(3), path.read_bytes()))
        done = cli(*damage.argv(command, root, name), timeout=300)
        assert damage.wrong_end(done) == [] and done.returncode == 1, done.stderr
    finally:
        damage.restore(root, pristine, damage.snapshot(root))


@pytest.mark.parametrize("suffix", mutators.RULES_OF)
def test_a_seed_names_a_mutation(suffix, world):
    """Each rule damages something for most seeds, and the same thing whenever it has the same seed."""
    _, pristine = world
    content = next(content for name, content in pristine.items() if name.endswith(suffix))
    for rule in (*mutators.FILE_RULES, *mutators.RULES_OF[suffix]):
        results = [rule(random.Random(seed), content) for seed in range(8)]
        assert results == [rule(random.Random(seed), content) for seed in range(8)], rule.__name__
        assert sum(result != content for result in results) >= 4, rule.__name__


def test_harm_is_seen(world):
    """The comparison after each command would miss nothing: lines lost, files changed, gone or new links."""
    root, pristine = world
    resume = ["resume", str(root / "runs/begun")]
    events = "runs/begun/events.jsonl"
    assert damage.damage_done(resume, root, pristine, dict(pristine)) == []
    longer = pristine | {events: pristine[events] + b"{}\n", "out/x": b"new"}
    assert damage.damage_done(resume, root, pristine, longer) == []
    for name, content, words in (
        (events, pristine[events][:-30], resume),
        (events, "link to x", resume),
        ("runs/begun/rounds/1/samples.jsonl", b"", resume),
        ("runs/begun/preset.yaml", b"", resume),
        ("runs/done/events.jsonl", longer[events], resume),
        ("pair/instruct/config.json", b"{}", resume),
        (events, longer[events], ["status", str(root / "runs/begun")]),
        ("train.jsonl", b"", ["run", str(root / "preset.yaml")]),
    ):
        [harm] = damage.damage_done(words, root, pristine, pristine | {name: content})
        assert re.match(f"{name} (was changed|lost)", harm)
    without = {name: content for name, content in pristine.items() if name != "adapted.yaml"}
    assert damage.damage_done(resume, root, pristine, without) == ["adapted.yaml was changed"]
