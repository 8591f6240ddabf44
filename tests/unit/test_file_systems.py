"""File systems as people have them: no modes, no locks, no syncing, files that somebody has open."""

import errno
import json
import os
import platform
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.export import destination
from thinkswitch.preset import Preset
from thinkswitch.runs import files, process

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="flock")
REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EROFS)


@pytest.fixture
def run(tmp_path):
    runs.create(Preset(), tmp_path / "run")
    return tmp_path / "run"


def refusing(code: int):
    def act(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return act


# ---- exFAT, SMB, FUSE


@pytest.mark.parametrize("code", REFUSALS, ids=errno.errorcode.get)
def test_a_file_system_without_modes_takes_an_export(tmp_path, monkeypatch, code):
    """CASES 4: on exFAT chmod is refused, and an export failed after all of it was written."""
    monkeypatch.setattr(os, "chmod", refusing(code))
    monkeypatch.setattr(Path, "chmod", refusing(code))
    with destination.atomic_directory(tmp_path / "out") as folder:
        (folder / "model.safetensors").write_bytes(b"weights")
        destination.fsync_tree(folder)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"weights"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    runs.set_mode(tmp_path / "out", 0o644)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EPERM])
def test_a_file_system_without_syncing_is_written_all_the_same(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", refusing(code))
    runs.write_atomic(tmp_path / "a.json", "{}")
    with runs.atomic_folder(tmp_path / "adapter") as folder:
        (folder / "x").write_text("1", "utf-8")
    assert (tmp_path / "a.json").read_text("utf-8") == "{}"
    assert (tmp_path / "adapter/x").read_text("utf-8") == "1"


def test_a_disk_that_fails_while_it_syncs_is_an_error(tmp_path, monkeypatch):
    runs.write_atomic(tmp_path / "a.json", "old")
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        runs.write_atomic(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text("utf-8") == "old"


def test_what_is_renamed_was_on_the_disk_before(tmp_path, monkeypatch):
    """A power failure leaves the new name with nothing in it, if only the name has reached the disk."""
    order = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("renamed"), replace(*names)))
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("synced"), fsync(descriptor)))
    runs.write_atomic(tmp_path / "a.json", "{}")
    with runs.atomic_folder(tmp_path / "adapter") as folder:
        for name in ("one", "two"):
            (folder / name).touch()
    assert order == ["synced", "renamed", "synced", "synced", "renamed"]


# ---- Lustre, some NFS: no locks


@contextmanager
def without_locks(monkeypatch, code: int):
    import fcntl

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refusing(code))
        yield


NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # 38, 95, 37


@POSIX_ONLY
@pytest.mark.parametrize("code", NO_LOCKS, ids=errno.errorcode.get)
def test_a_run_goes_on_without_locks(run, monkeypatch, caplog, code):
    """CASES 4: a run on Lustre was refused; it is running for as long as its process lives."""
    with without_locks(monkeypatch, code):
        assert runs.running_pid(run) is None
        with runs.claim(run):
            assert "is on a file system without file locks; start this run only once" in caplog.text
            assert runs.read_info(run)["locked"] is False
            assert runs.running_pid(run) == os.getpid() and runs.state(run) == "running"
            with pytest.raises(UserError, match=f"in use by process {os.getpid()}"), runs.claim(run):
                pass
        assert runs.running_pid(run) is None
        with runs.claim(run):  # ended, so it can be resumed
            pass


@POSIX_ONLY
@pytest.mark.parametrize(
    "changes, running",
    [
        ({}, False),  # killed: its process is gone
        ({"pid": os.getpid()}, False),  # its pid has been given to us
        ({"pid": os.getpid(), "started": None}, True),
        ({"host": "another", "heartbeat": None}, True),  # it beats on another machine
        ({"host": "another", "heartbeat": 100}, False),  # and has not for long
        ({"host": "another", "heartbeat": -100}, False),  # or its clock is far ahead
        ({"host": "another", "heartbeat": None, "ended": 1.0}, False),
    ],
)
def test_without_locks_a_killed_run_is_not_in_use(run, monkeypatch, changes, running):
    """Never the untrue "in use by another process": then nobody could resume it."""
    import psutil

    now = time.time()
    started = psutil.Process().create_time()
    info = {"pid": 4_194_305, "started": now, "heartbeat": now, "versions": {}, "locked": False}
    info |= {"host": platform.node(), "started": started - 1000} | changes
    info["started"] = started if info["started"] is None else info["started"]
    info["heartbeat"] = now - info["heartbeat"] if changes.get("heartbeat") else now
    runs.write_atomic(run / "run.json", json.dumps(info))
    with without_locks(monkeypatch, errno.ENOSYS):
        assert (runs.running_pid(run) == info["pid"]) is running
        if not running:
            with runs.claim(run):
                assert runs.read_info(run)["pid"] == os.getpid()


@POSIX_ONLY
@pytest.mark.parametrize("code", NO_LOCKS, ids=errno.errorcode.get)
def test_an_export_goes_on_without_locks(tmp_path, monkeypatch, caplog, code):
    with without_locks(monkeypatch, code):
        with destination.atomic_directory(tmp_path / "out") as folder:
            (folder / "x").touch()
        assert destination.stale_folders(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "without file locks" in caplog.text


@POSIX_ONLY
def test_another_failure_of_a_lock_is_no_missing_lock(run, monkeypatch):
    with without_locks(monkeypatch, errno.EIO), pytest.raises(OSError, match="Input/output"), runs.claim(run):
        pass


# ---- Windows: files that somebody has open


def test_a_busy_file_is_waited_for_two_seconds():
    """CASES 4: 0.4 s were too short for antivirus programs, which scan what has just been written."""
    assert 2 <= sum(files.BUSY_WAITS) < 3


@pytest.fixture
def busy(monkeypatch):
    """`busy(module, name)` -> a function of that module is refused twice, as Windows does it."""
    monkeypatch.setattr(files, "BUSY_WAITS", (0.0, 0.0))
    monkeypatch.setattr(files, "READERS_ARE_REFUSED", True)

    def refuse(module, name: str) -> list:
        real, refused = getattr(module, name, open), []

        def sometimes(*args, **kwargs):
            if len(refused) < 2:
                refused.append(args)
                raise PermissionError(13, "Access is denied")
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, sometimes, raising=False)
        return refused

    return refuse


def test_a_file_that_is_scanned_is_replaced_read_and_appended_to(tmp_path, busy, monkeypatch):
    path = tmp_path / "events.jsonl"
    runs.write_atomic(path, '{"n": 1}\n')
    refused = busy(os, "replace")
    runs.write_atomic(path, '{"n": 2}\n')
    assert len(refused) == 2
    for act in (
        lambda: list(runs.read_lines(path)),
        lambda: [runs.last_line(path)],
        lambda: runs.Follower(path).read(),
    ):
        refused = busy(files, "open")
        assert act() == [{"n": 2}] and len(refused) == 2
    refused = busy(files, "open")
    runs.append(path, {"n": 3})
    assert len(refused) == 2 and runs.last_line(path) == {"n": 3}


def test_a_run_json_that_is_being_replaced_is_no_missing_one(run, busy):
    """It was read as {}: the page showed a running run as interrupted, and offered to resume it."""
    with runs.claim(run):
        pass
    refused = busy(files, "open")  # a name of the module, before Python's own
    assert runs.read_info(run)["pid"] == os.getpid() and len(refused) == 2


def test_folders_that_are_scanned_are_renamed(run, tmp_path, busy):
    refused = busy(os, "rename")
    renamed = runs.rename(run, "other")
    assert renamed.is_dir() and len(refused) == 2
    (tmp_path / "new").mkdir()
    destination.swap_into_place(tmp_path / "new", tmp_path / "out", tmp_path / "replaced")
    assert (tmp_path / "out").is_dir()


def test_a_reader_on_other_systems_does_not_wait(tmp_path, monkeypatch):
    """There a refusal is no moment's matter, and the page would stand still for two seconds."""
    monkeypatch.setattr(files, "READERS_ARE_REFUSED", False)
    monkeypatch.setattr(files, "open", refusing(errno.EACCES), raising=False)
    monkeypatch.setattr(files, "patiently", lambda act: pytest.fail("it waits"))
    with pytest.raises(PermissionError):
        files.open_to_read(tmp_path / "x")
    assert process.read_info(tmp_path) == {}
