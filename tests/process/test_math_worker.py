"""Mathematical answers, compared by math-verify in a child process that stays."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from conftest import ROOT
from thinkswitch import grading, math_worker
from thinkswitch.math_worker import MathWorker

ENDLESS = "9^{9^{9^9}}"
GRADES = [  # right answer, response, is it right
    (r"\frac{1}{2}", r"\boxed{\frac{1}{2}}", True),
    (r"\frac{1}{2}", r"\boxed{0.5}", True),
    ("2^{10}", r"\boxed{1024}", True),
    ("3", r"\boxed{4}", False),
    (r"\frac{7}{2}", r"\boxed{0}", False),
    ("3", r"\boxed{\frac{}", False),
    ("3", "\\boxed{\ud800}", False),  # half of a surrogate pair
]


@pytest.fixture
def worker():
    worker = MathWorker()
    yield worker
    worker.close()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.mark.parametrize("answer, response, right", GRADES)
def test_grades_of_mathematics(answer, response, right):
    assert grading.grade(response, answer, "math") is right


def test_mathematics_that_never_ends_is_wrong_not_endless(monkeypatch):
    monkeypatch.setattr(grading, "MATH_SECONDS", 0.2)
    assert grading.final_answer(rf"\boxed{{{ENDLESS}}}", "math") == ENDLESS
    assert grading.grade(rf"\boxed{{{ENDLESS}}}", "3", "math") is False
    monkeypatch.undo()
    assert grading.grade(r"\boxed{6/3}", "2", "math") is True  # by another process


def test_one_process_answers_all_questions(worker):
    """A new Python with sympy for each pair took half a second, inside the decode loop."""
    before = children()
    assert children() == before  # none before the first question
    assert worker.equal("1/2", "0.5", 30) is True
    [started] = children() - before
    assert worker.equal("1/2", "0.6", 30) is False
    assert children() - before == {started}
    worker.close()
    assert children() == before


def test_threads_get_the_answers_to_their_own_questions(worker):
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda i: worker.equal(str(i // 2), f"{i}/2", 30), range(40))
    assert list(answers) == [i % 2 == 0 for i in range(40)]


def test_a_process_that_is_killed_is_replaced(worker):
    before = children()
    assert worker.equal("1/2", "0.5", 30) is True
    [started] = children() - before
    process = psutil.Process(started)
    process.kill()
    psutil.wait_procs([process])
    assert worker.equal("1/2", "0.5", 30) is True


def test_an_interrupted_question_does_not_answer_the_next(worker, monkeypatch):
    """Ctrl-C while a reply is awaited: it must not be taken for the reply to the next question."""
    assert worker.equal("1", "2", 30) is False

    def interrupted(child):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("thinkswitch.math_worker._read_reply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.equal("1", "2", 30)
    assert worker.equal("1/2", "0.5", 30) is True


# In the place of math-verify: it does with its process what the answer says.
UNRULY = """
import json, os, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    right, found, seconds = json.loads(line)
    if found == "crash":
        os.abort()
    if found == "exit":
        os._exit(0)
    if found == "half a reply":
        print("{", end="", flush=True)
        os._exit(1)
    if found == "hang":
        time.sleep(600)
    if found == "eat":
        held = bytearray(os.urandom(1)) * 400_000_000
        time.sleep(600)
    if found == "keep":
        kept = bytearray(os.urandom(1)) * 200_000_000
    reply = {"error": "RecursionError()"} if found == "raise" else {"equal": right == found}
    print(json.dumps(reply), flush=True)
"""
UNRULY_ANSWERS = ("crash", "exit", "half a reply", "hang", "eat", "raise")


@pytest.fixture
def unruly(worker, monkeypatch, tmp_path):
    (tmp_path / "unruly.py").write_text(UNRULY)
    monkeypatch.setattr(math_worker, "__file__", str(tmp_path / "unruly.py"))
    monkeypatch.setattr(math_worker, "MOST_BYTES", 300_000_000)
    return worker


@pytest.mark.parametrize("answer", UNRULY_ANSWERS)
def test_an_answer_that_breaks_the_process_is_wrong_and_the_next_is_answered(unruly, answer):
    """A process that had crashed ended the run with a RuntimeError, and again at each resume."""
    before = children()
    assert unruly.equal("1", "1", 60) is True
    assert unruly.equal("1", answer, 1 if answer == "hang" else 60) is None
    assert unruly.equal("1", "1", 60) is True
    assert len(children() - before) == 1
    unruly.close()
    assert children() == before


def test_what_an_answer_leaves_in_memory_does_not_count_for_the_next(unruly):
    before = children()
    assert unruly.equal("1", "1", 60) is True
    first = children() - before
    assert unruly.equal("keep", "keep", 60) is True
    assert unruly.equal("1", "1", 60) is True
    assert first.isdisjoint(children())


def test_a_run_of_bad_answers_is_graded_to_its_end(unruly, monkeypatch):
    monkeypatch.setattr(grading, "_math_worker", unruly)
    monkeypatch.setattr(grading, "MATH_SECONDS", 2.0)
    responses = [rf"\\boxed{{{answer}}}" for one in UNRULY_ANSWERS for answer in (one, "x")]
    assert [grading.grade(response, "y", "math") for response in responses] == [False] * 12
    assert grading.grade(r"\\boxed{y}", "y", "math")


def test_without_math_verify_the_reason_is_said(worker, monkeypatch, tmp_path):
    """Not a wrong answer: all of them would be."""
    (tmp_path / "missing.py").write_text("import no_such_module")
    monkeypatch.setattr(math_worker, "__file__", str(tmp_path / "missing.py"))
    with pytest.raises(RuntimeError, match="math-verify cannot be used: its process ended with code 1"):
        worker.equal("1", "1", 30)


def test_an_expression_as_long_as_an_essay_is_compared_as_text(monkeypatch):
    """Deep nesting takes math-verify minutes."""
    monkeypatch.setattr(grading, "_math_worker", None)
    nested = "(" * 3000 + "1" + ")" * 3000
    assert grading.grade(rf"\\boxed{{{nested}}}", "2", "math") is False
    assert grading.grade(rf"\\boxed{{{nested}}}", nested, "math") is True


def test_hand_written_mathematics_is_graded_as_it_should_be():
    """No wrong answer counts as right, and 99 of 100 are graded as a person does."""
    lines = (ROOT / "tests" / "unit" / "answers.jsonl").read_text("utf-8").splitlines()
    answers = [one for one in map(json.loads, lines) if one["kind"] == "math"]
    graded = [(grading.grade(one["response"], one["gold"], "math"), one) for one in answers]
    assert not [one for right, one in graded if right and not one["right"]]
    differ = [one for right, one in graded if right is not one["right"]]
    assert len(differ) <= len(answers) / 100, differ


PARENT = """
import os, signal, sys, threading
from thinkswitch.math_worker import MathWorker
worker = MathWorker()
assert worker.equal("1/2", "0.5", 30)
if sys.argv[1] == "busy":
    threading.Thread(target=worker.equal, args=(sys.argv[2], "3", 4), daemon=True).start()
print("started", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_the_process_ends_with_a_parent_that_is_killed(state):
    """An endless comparison holds the interpreter's lock, so no thread of the child would see stdin end."""
    arguments = [sys.executable, "-c", PARENT, state, ENDLESS]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(arguments, cwd=ROOT, **pipes) as parent:
        assert parent.stdout.readline() == "started\n"
        [child] = psutil.Process(parent.pid).children()
        used = child.cpu_times().user
        while state == "busy" and child.cpu_times().user < used + 0.2:
            time.sleep(0.05)
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=120)
    assert not alive
