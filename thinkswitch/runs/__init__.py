"""The run folder: one process writes it, everybody else only reads. Torch-free."""

from thinkswitch.runs.files import (
    Follower,
    append,
    atomic_folder,
    last_line,
    read_lines,
    to_line,
    truncate_partial_line,
    write_atomic,
)
from thinkswitch.runs.folder import (
    ENDED,
    ROOT,
    Event,
    create,
    measured,
    new_folder,
    open_run,
    request_stop,
    round_dir,
    rounds_done,
    runs_in,
    state,
    stop_requested,
)
from thinkswitch.runs.power import gpu_watts
from thinkswitch.runs.process import HEARTBEAT_SECONDS, claim, read_info, running_pid, start

__all__ = [
    "ENDED",
    "HEARTBEAT_SECONDS",
    "ROOT",
    "Event",
    "Follower",
    "append",
    "atomic_folder",
    "claim",
    "create",
    "gpu_watts",
    "last_line",
    "measured",
    "new_folder",
    "open_run",
    "read_info",
    "read_lines",
    "request_stop",
    "round_dir",
    "rounds_done",
    "running_pid",
    "runs_in",
    "start",
    "state",
    "stop_requested",
    "to_line",
    "truncate_partial_line",
    "write_atomic",
]
