"""The frame of the command line: which errors are explained, what is logged, what is drawn of a run."""

import errno
import io
import logging
import re
import sys

import pytest
from rich.console import Console

from thinkswitch import runs
from thinkswitch.cli import terminal
from thinkswitch.cli.main import explain, main
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "


@pytest.fixture
def run(tmp_path):
    runs.create(Preset(), tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """`main` sets up logging for its process, which here goes on to other tests."""
    logger = logging.getLogger("thinkswitch")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers = handlers


# ---- errors


@pytest.mark.parametrize(
    "name", ["ENOSPC", "EROFS", "EACCES", "EPERM", "EIO", "EFBIG", "ENAMETOOLONG", "ELOOP"]
)
def test_a_disk_that_cannot_be_used_is_one_sentence(name):
    error = OSError(getattr(errno, name), "No such luck", "runs/x/events.jsonl")
    explanation = explain(error)
    assert explanation.startswith("runs/x/events.jsonl cannot be used: No such luck; ")
    assert "can be resumed" in explanation


@pytest.mark.parametrize("name", ["ENOENT", "ENOTDIR", "EISDIR", "ECONNREFUSED"])
def test_a_file_that_is_missing_is_no_trouble_of_the_disk(name):
    """An internal FileNotFoundError was reported as a disk error, without its traceback."""
    assert explain(OSError(getattr(errno, name), "x", "adapter.safetensors")) is None


@pytest.mark.parametrize("error", [OSError("no number"), ValueError("x"), RuntimeError("shapes differ")])
def test_a_defect_keeps_its_traceback(error, monkeypatch, run):
    assert explain(error) is None

    def broken(folder):
        raise error

    monkeypatch.setattr(runs, "open_run", broken)
    with pytest.raises(type(error), match=str(error)):
        main(["status", str(run)])


@pytest.mark.parametrize(
    "error, code, shown",
    [
        (UserError("t must lie between 0 and 1"), 1, "error: t must lie between 0 and 1\n"),
        (KeyboardInterrupt(), 130, "interrupted; a run can be resumed\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),  # its reader has left, such as `head`
    ],
)
def test_exit_codes(monkeypatch, capsys, run, error, code, shown):
    def fails(folder):
        raise error

    monkeypatch.setattr(runs, "open_run", fails)
    assert main(["status", str(run)]) == code
    assert capsys.readouterr().err == shown


# ---- logging


def logs_a_detail(monkeypatch):
    read = runs.open_run

    def detailed(folder):
        logging.getLogger("thinkswitch.some.module").debug("a detail")
        logging.getLogger("thinkswitch.some.module").warning("a warning")
        logging.getLogger("httpx").info("a library's")
        return read(folder)

    monkeypatch.setattr(runs, "open_run", detailed)


@pytest.mark.parametrize("argv", [["--verbose", "status"], ["status", "--verbose"]])
def test_verbose_shows_details_with_their_times(monkeypatch, capsys, run, argv):
    logs_a_detail(monkeypatch)
    assert main([*argv, str(run)]) == 0
    detail, warning = capsys.readouterr().err.splitlines()
    assert re.fullmatch(TIME + r"DEBUG thinkswitch\.some\.module: a detail", detail)
    assert re.fullmatch(TIME + r"WARNING thinkswitch\.some\.module: a warning", warning)


def test_a_log_file_has_times_and_no_details(monkeypatch, capsys, run):
    """A run that the page started writes its log.txt for hours."""
    logs_a_detail(monkeypatch)
    for _ in range(2):  # `main` may be called again: each line is still written once
        assert main(["status", str(run)]) == 0
        [line] = capsys.readouterr().err.splitlines()
        assert re.fullmatch(TIME + r"WARNING thinkswitch\.some\.module: a warning", line)


def test_a_terminal_shows_messages_alone(monkeypatch, capsys, run):
    logs_a_detail(monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["status", str(run)]) == 0
    assert capsys.readouterr().err == "a warning\n"


# ---- the screen


def event(phase, step=0, total=0, **data) -> runs.Event:
    return runs.Event(1, phase, step, total, data)


def measurement(checkpoint="instruct", **more) -> dict:
    shares = {"accuracy": 0.5, "low": 0.2, "high": 0.8, "think_rate": 1.0}
    return {"checkpoint": checkpoint, "n": 8, "correct": 4, **shares, "mean_tokens": 12.5, **more}


@pytest.mark.parametrize(
    "shown, note",
    [
        (event("distil", loss=0.5, lr=2e-4, tokens_per_s=1234), "loss 0.500  lr 2.0e-04  1,234 tokens/s"),
        (event("strip", kept=7, dropped={"no answer": 2}), "kept 7, dropped 2 no answer"),
        (event("strip", kept=7, dropped={}), "kept 7"),
        (event("think", tokens_per_s=1200), "1,200 tokens/s"),
        (
            event("think", tokens_per_s=1200, writing=3400),
            "1,200 tokens/s  3,400 tokens generated in this batch",
        ),
        (event("measure", **measurement()), "instruct 50.0 % [20.0, 80.0]"),
        (event("measure", checkpoint="thinking", writing=9), "thinking   9 tokens generated in this batch"),
        (event("rebuild", t=0.8), ""),
    ],
)
def test_the_note_beside_the_bar(shown, note):
    assert terminal.event_note(shown) == note


def test_a_log_gets_a_line_for_each_phase_and_the_scores(run, capsys):
    """A file gets lines, not pictures."""
    paired = {"gained": 3, "lost": 1, "p": 0.625}
    events = [
        event("think", 1, 2, tokens_per_s=5),
        event("think", 2, 2, tokens_per_s=5),
        event("measure", 2, 2, **measurement(since_start=paired)),
        event("done", 1, 1),
    ]
    assert terminal.show(iter(events), Preset(), run) == "done"
    shown = capsys.readouterr().out
    assert "round 1 think 2/2 5 tokens/s" in shown and "think 1/2 5" not in shown
    assert "round 1 measure 2/2 instruct 50.0 % [20.0, 80.0]" in shown
    assert re.search(r"1 +instruct +50\.0 % \[20\.0, 80\.0\] +1\.00 +12\.5 +\+3 -1 +0\.6", shown)
    assert re.search(rf"\ndone after \d+ s; results in {re.escape(str(run))}", shown)


def test_a_resumed_run_shows_what_it_measured_before(run, capsys):
    earlier = runs.Event(0, "measure", 2, 2, measurement("thinking"))
    runs.append(run / "events.jsonl", earlier.to_dict())
    assert terminal.show(iter([event("stopped")]), Preset(), run) == "stopped"
    assert re.search(r"0 +thinking +50\.0 %", capsys.readouterr().out)


def test_settings_that_were_lowered_to_fit_are_shown(run, capsys):
    """The loop writes the preset that fits into the run; what was asked for had more rows."""
    asked = Preset(rows=64)
    terminal.show(iter([event("stopped")]), asked, run)
    assert "to fit this machine: rows=" in capsys.readouterr().out


@pytest.mark.parametrize("width, points, side_by_side", [(200, 3, 3), (80, 3, 3), (60, 3, 2), (20, 3, 1)])
def test_answers_stand_side_by_side_where_there_is_room(monkeypatch, width, points, side_by_side):
    output = io.StringIO()
    monkeypatch.setattr(terminal, "console", lambda: Console(file=output, width=width, highlight=False))
    ts = [0.0, 0.5, 1.0][:points]
    terminal.columns("What [is] this?", ts, 2, iter([]))
    [titles, *_] = [line for line in output.getvalue().splitlines() if "t = 0 " in line]
    assert titles.count("t = ") == side_by_side
    assert "round 2: " in output.getvalue() and "What [is] this?" in output.getvalue()


def test_libraries_keep_their_own_logging(run):
    """A handler at the root showed twice what huggingface_hub and datasets print by themselves."""
    before = list(logging.getLogger().handlers)
    main(["status", str(run)])
    assert logging.getLogger().handlers == before
    assert logging.getLogger("thinkswitch").handlers
