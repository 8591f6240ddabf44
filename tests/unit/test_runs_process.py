"""The process that writes a run: the lock says whether it lives, run.json what it has taken."""

import json
import os
import threading
import time
from importlib import metadata

import filelock
import pytest

from thinkswitch import __version__, runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.runs import AwakeClock, process
from thinkswitch.runs.process import Heartbeat

FOREIGN_PID = 4_194_304 + 1  # above what Linux hands out: as if counted in another container


@pytest.fixture
def run(tmp_path):
    runs.create(Preset(), tmp_path)
    return tmp_path


def write_info(folder, **changes):
    info = {"pid": FOREIGN_PID, "started": 0.0, "heartbeat": 0.0, "versions": {}, **changes}
    runs.write_atomic(folder / "run.json", json.dumps(info))


# ---- the lock


def test_the_lock_says_that_a_run_is_running(run):
    """Pids are counted anew in every container, and start times move when the clock is set.

    A running run was shown as interrupted then, and Stop answered that it was not running.
    """
    write_info(run, started=time.time() - 3600)
    with filelock.FileLock(run / ".lock"):
        assert runs.running_pid(run) == FOREIGN_PID
        assert runs.state(run) == "running"
        runs.request_stop(run)
        with (
            pytest.raises(UserError, match=f"in use by process {FOREIGN_PID}; stop it first"),
            runs.claim(run),
        ):
            pass
    assert runs.running_pid(run) is None


@pytest.mark.skipif(os.name == "nt", reason="flock")
def test_a_process_of_an_earlier_version_is_seen(run):
    """It locks the same file by flock, and its run.json has the same keys."""
    import fcntl

    write_info(run)
    with open(run / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert runs.running_pid(run) == FOREIGN_PID
    assert runs.running_pid(run) is None


def test_a_lock_file_that_nobody_holds_means_nothing(run):
    write_info(run, pid=os.getppid())  # a process that lives
    (run / ".lock").touch()
    assert runs.running_pid(run) is None


def test_many_threads_that_ask_at_once_do_not_take_each_other_for_the_owner(run):
    write_info(run)
    (run / ".lock").touch()
    answers = []

    def ask():
        answers.extend(runs.running_pid(run) for _ in range(300))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [None] * 1200


def test_somebody_who_asks_does_not_keep_the_owner_out(run, monkeypatch):
    """A question holds the lock for microseconds; whoever claims the run in that moment waits for its end."""
    monkeypatch.setattr(process, "LOCK_SECONDS", 60)
    held = threading.Event()

    def hold():
        with filelock.FileLock(run / ".lock"):
            held.set()
            time.sleep(0.05)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with runs.claim(run):
        assert runs.running_pid(run) == os.getpid()
    thread.join()


def test_two_that_start_in_the_same_moment(run, monkeypatch):
    """Between looking whether another lives and writing run.json there was time for a second owner."""
    monkeypatch.setattr(process, "running_pid", lambda folder: None)  # both have looked, and seen nobody
    with runs.claim(run):
        with pytest.raises(UserError, match="in use by another process"), runs.claim(run):
            pass
        assert runs.read_info(run)["pid"] == os.getpid()
    with runs.claim(run):
        pass


def test_a_recycled_pid_is_not_a_process_that_starts(run):
    """After a reboot the pid of a killed process may be another's: the start times differ."""
    runs.write_atomic(
        run / "run.json", json.dumps({"pid": os.getppid(), "started": time.time() - 10**6, "heartbeat": 0})
    )
    assert runs.running_pid(run) is None


@pytest.mark.parametrize(
    "asked, honoured", [(lambda: 999_999_999, False), (os.getpid, True), (os.getppid, True)]
)
def test_claim_removes_a_stop_that_was_for_another_process(run, asked, honoured):
    """The parent counts as this process: on Windows it may be the launcher of a virtual environment."""
    (run / "stop").write_text(f"{asked()}\n", encoding="utf-8")
    with runs.claim(run):
        assert runs.stop_requested(run) is honoured
    assert not runs.stop_requested(run)


@pytest.mark.parametrize("content", [b"", b"\xff"])
def test_claim_removes_a_stop_file_that_names_nobody(run, content):
    (run / "stop").write_bytes(content)
    with runs.claim(run):
        assert not runs.stop_requested(run)


def test_claim_removes_what_a_kill_left(run):
    (run / "rounds" / "1").mkdir(parents=True)
    (run / "rounds" / "1" / f".tmp-{FOREIGN_PID}-1-recipe.json").touch()
    (run / "events.jsonl").write_text('{"n": 1}\n{"n": 2', encoding="utf-8")
    with runs.claim(run):
        assert list((run / "rounds" / "1").iterdir()) == []
        assert list(runs.read_lines(run / "events.jsonl")) == [{"n": 1}]


def test_claim_leaves_what_is_not_its_own(run):
    """Whatever had a name like `.x.1` was unlinked; where it was a folder, the run could not be resumed."""
    for name in (".checkpoint.2", ".tmp-1-1-adapter", ".tmp-notes"):
        (run / name).mkdir()
        (run / name / "mine").touch()
    (run / ".vimrc.1").touch()
    living = run / f".tmp-{os.getppid()}-1-stop"  # another process is writing it
    living.touch()
    with runs.claim(run):
        pass
    assert living.exists() and (run / ".vimrc.1").exists()
    for name in (".checkpoint.2", ".tmp-1-1-adapter", ".tmp-notes"):
        assert (run / name / "mine").exists()


# ---- run.json


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"\xff", b'{"pid": "12", "started": null, "heartbeat": "x"}', b'{"pid": 12}']
)
def test_a_damaged_run_json_is_written_anew(run, content):
    (run / "run.json").write_bytes(content)
    assert runs.read_info(run) == {}
    assert runs.running_pid(run) is None and runs.state(run) == "new"
    with runs.claim(run):
        assert runs.read_info(run)["pid"] == os.getpid()


def test_a_package_that_is_not_installed_has_no_version(run, monkeypatch):
    """bitsandbytes is optional; without it no run began."""
    version = metadata.version

    def without_bitsandbytes(name):
        if name == "bitsandbytes":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(process, "version", without_bitsandbytes)
    with runs.claim(run):
        versions = runs.read_info(run)["versions"]
    assert versions["bitsandbytes"] is None
    assert versions["torch"] == version("torch")
    assert versions["thinkswitch"] == __version__


def test_a_resumed_run_keeps_what_it_has_taken_and_its_first_command(run):
    write_info(run, ended=1.0, seconds=12.5, joules=7.0, command=["python", "first"])
    with runs.claim(run):
        info = runs.read_info(run)
    assert (info["seconds"], info["joules"], info["command"]) == (12.5, 7.0, ["python", "first"])
    assert "ended" not in info
    assert runs.read_info(run)["ended"] >= info["heartbeat"]


# ---- what a run has taken


class Clock:
    """A monotonic clock that starts anywhere and stands still while the machine sleeps."""

    now = 3.0

    def __call__(self):
        return self.now


def heartbeat(folder, clock, watts) -> Heartbeat:
    info = {"pid": 1, "started": 0.0, "heartbeat": 0.0, "seconds": 100.0, "joules": 40.0}
    return Heartbeat(folder, info, clock, lambda: watts[-1])


def test_hours_asleep_are_no_work(tmp_path, monkeypatch):
    """A laptop that slept for eight hours in the middle of a run billed 28,800 s, and joules with them."""
    clock = Clock()
    beats = heartbeat(tmp_path, clock, watts=[10.0])
    clock.now += 5
    wall = time.time() + 8 * 3600
    monkeypatch.setattr(time, "time", lambda: wall)
    beats.beat()
    info = runs.read_info(tmp_path)
    assert (info["seconds"], info["joules"]) == (105.0, 90.0)
    assert info["heartbeat"] == wall


@pytest.mark.parametrize("asleep", [61, 8 * 3600, 30 * 86400])
def test_hours_asleep_are_no_work_where_the_clock_goes_on(tmp_path, asleep):
    """CASES 4: on Windows and in virtual machines time.monotonic() counts a sleep: a night was billed."""
    clock = Clock()
    beats = heartbeat(tmp_path, AwakeClock(clock), watts=[10.0])
    for passed in (5, asleep, 5):
        clock.now += passed
        beats.beat()
    info = runs.read_info(tmp_path)
    assert (info["seconds"], info["joules"]) == (110.0, 140.0)


@pytest.mark.parametrize(
    "steps, awake",
    [
        ([5] * 100, 500),
        ([1, 8 * 3600, 1], 2),
        ([59], 59),  # nvidia-smi is slow, or the machine swaps
        ([60, 3600, 1], 1),
        ([0.25] * 8 + [1e6], 2),
        ([], 0),
    ],
)
def test_a_clock_that_stands_still_while_the_machine_sleeps(steps, awake):
    """What bars reckon the time left with, too."""
    clock = Clock()
    counted = AwakeClock(clock)
    for step in steps:
        clock.now += step
        counted()
    assert counted() == pytest.approx(awake)


def test_the_time_left_counts_no_sleep(tmp_path, capsys):
    """rich divides what is left by the speed since the start; a night in between made hours of it."""
    from thinkswitch.cli import terminal

    shown = terminal.RunDisplay(Preset(), tmp_path, terminal.console())
    clock = Clock()
    shown.bars.get_time = AwakeClock(clock)
    shown.update(runs.Event(1, "think", 0, 100))
    [task] = [task for task in shown.bars.tasks if task.description.strip() == "think"]
    for step in range(1, 11):
        clock.now += 8 * 3600 if step == 5 else 1
        shown.bars.get_time()
        shown.update(runs.Event(1, "think", step, 100))
    assert task.time_remaining == pytest.approx(81, abs=10)  # 9 s awake for 10 of 100
    assert isinstance(terminal.RunDisplay(Preset(), tmp_path, terminal.console()).bars.get_time, AwakeClock)


def test_a_clock_that_is_set_back_takes_nothing_away(tmp_path, monkeypatch):
    clock = Clock()
    beats = heartbeat(tmp_path, clock, watts=[None])
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    clock.now += 2
    beats.beat()
    assert runs.read_info(tmp_path)["seconds"] == 102.0


def test_joules_follow_the_power(tmp_path):
    clock = Clock()
    watts = [100.0]
    beats = heartbeat(tmp_path, clock, watts)
    for power, total in ((100.0, 540.0), (50.0, 790.0), (None, 790.0)):
        watts.append(power)
        clock.now += 5
        beats.beat()
        assert runs.read_info(tmp_path)["joules"] == pytest.approx(total)


def test_the_last_interval_has_its_joules(tmp_path):
    """The last seconds of a run, which are fewer than a heartbeat, counted as seconds but not as joules."""
    clock = Clock()
    watts = [100.0]
    beats = heartbeat(tmp_path, clock, watts)
    beats.start()
    clock.now += 4
    beats.end()
    info = runs.read_info(tmp_path)
    assert (info["seconds"], info["joules"]) == (104.0, 440.0)
    assert "ended" in info


def test_a_card_that_takes_long_to_answer_does_not_hold_up_the_work(run, monkeypatch):
    """nvidia-smi takes up to seconds; it ran between two steps of the training."""
    asked, answer = threading.Event(), threading.Event()

    def slow_card():
        asked.set()
        answer.wait()
        return 100.0

    monkeypatch.setattr(process, "gpu_watts", slow_card)
    with runs.claim(run):
        asked.wait()
        runs.append(run / "events.jsonl", runs.Event(1, "think").to_dict())  # the work goes on meanwhile
        assert not answer.is_set()
        answer.set()
    assert runs.read_info(run)["joules"] > 0


def test_a_heartbeat_that_cannot_be_written_ends_nothing(run, monkeypatch, caplog):
    """Results are written elsewhere: where the disk is full, they say so."""
    clock = Clock()
    beats = heartbeat(run, clock, watts=[None])
    with monkeypatch.context() as patch:
        patch.setattr(process, "write_atomic", full_disk)
        clock.now += 5
        beats.beat()
    assert "run.json could not be renewed: [Errno 28]" in caplog.text
    clock.now += 5
    beats.beat()
    assert runs.read_info(run)["seconds"] == 110.0


def full_disk(path, text):
    raise OSError(28, "No space left on device")


# ---- the child's environment


def test_children_have_utf_8_and_leave_a_cpu_to_the_page(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    environment = process._child_environment()
    assert environment["PYTHONUTF8"] == "1"
    assert environment["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert process._child_environment()["OMP_NUM_THREADS"] == "7"
