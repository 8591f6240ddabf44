"""Mathematical answers, compared by math-verify in a child process that stays."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from conftest import ROOT
from thinkswitch import grading
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
