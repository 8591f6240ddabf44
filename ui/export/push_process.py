"""A push as a task of the page: in a child process, so that Stop ends it at once."""

import atexit
import functools
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from thinkswitch.errors import UserError
from ui.download import end, without_window
from ui.scheduling import Progress

if TYPE_CHECKING:
    from thinkswitch.export.hub_push import Repository

# The Hub's library reports to progress bars alone; push_child.py puts itself in their place.
ENVIRONMENT = {"PYTHONUTF8": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "0"}

logger = logging.getLogger(__name__)


def push(folder: Path, there: "Repository") -> Progress[str]:
    """Yields how far it is; returns the address. Closed before its end, it ends the child.

    While the commit is made it yields nothing, so that nobody is told of a stop that came too late.
    """
    question = {**vars(there), "folder": str(folder), "files": sorted(there.files)}
    with tempfile.TemporaryFile() as log, started(question, log) as child:
        assert child.stdout
        for line in child.stdout:
            kind, *values = json.loads(line)
            if kind == "pushed":
                return values[0]
            if kind == "refused":
                raise UserError(values[0])
            if kind == "upload":
                yield kind, values[0], values[1]
        child.wait()
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
        logger.error("the push ended with exit code %d:\n%s", child.returncode, said)
    raise UserError(
        f"the push ended with exit code {child.returncode}; the app's log says more. Push it again"
    )


@contextmanager
def started(question: dict, log: IO[bytes]) -> Iterator[subprocess.Popen]:
    """The child, ended at the latest with the app."""
    child = subprocess.Popen(
        [sys.executable, "-m", "thinkswitch.export.push_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        encoding="utf-8",
        env={**os.environ, **ENVIRONMENT},
        **without_window(),
    )
    end_it = functools.partial(end, child)
    atexit.register(end_it)
    try:
        assert child.stdin
        child.stdin.write(json.dumps(question))
        child.stdin.close()
        yield child
    finally:
        end(child)
        atexit.unregister(end_it)
