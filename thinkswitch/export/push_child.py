"""A push in a process of its own, which can be ended at any moment; a thread could not.

    python -m thinkswitch.export.push_child < QUESTION      (JSON: folder, name, private, commit, files)

Several times a second it prints what it is doing, a JSON array a line: ["upload" | "publish", bytes, of all],
and at the end ["pushed", address] or ["refused", sentence].
"""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thinkswitch.errors import UserError
from thinkswitch.export import hub_push
from thinkswitch.export.hub_push import Repository

TELL_SECONDS = 0.25


class Progress:
    """How far a push is."""

    def __init__(self, total: int):
        self.stage = "upload"
        self._total = total
        self._sent: dict[str, int] = {}  # bytes of each file, or under "" of all

    def sent(self, file: str, nbytes: int) -> None:
        self._sent[file] = nbytes

    def publish(self) -> None:
        self.stage = "publish"

    def message(self) -> list:
        # a list, since threads of the upload add files meanwhile
        return [self.stage, min(sum([*self._sent.values()]), self._total), self._total]


@contextmanager
def counted(progress: Progress) -> Iterator[None]:
    """Count what huggingface_hub uploads: it tells its progress bars, and nobody else.

    So what it draws bars with is replaced meanwhile, for each of its two ways to upload.
    """
    from huggingface_hub import utils
    from huggingface_hub.utils import _xet_progress_reporting as xet

    class Reporter:
        def update_progress(self, group_report, item_reports: dict) -> None:
            progress.sent("", group_report.total_bytes_completed)

        def close(self) -> None:
            pass

    @contextmanager
    def stream_file(path: Path | str) -> Iterator:
        with open(path, "rb") as file:
            read = file.read

            def read_and_count(size: int | None = -1) -> bytes:
                data = read(size)
                progress.sent(str(path), file.tell())  # which a second try begins anew
                return data

            file.read = read_and_count  # type: ignore[method-assign]
            yield file

    before = xet.XetUploadProgressReporter, utils.tqdm_stream_file
    xet.XetUploadProgressReporter, utils.tqdm_stream_file = Reporter, stream_file  # type: ignore
    try:
        yield
    finally:
        xet.XetUploadProgressReporter, utils.tqdm_stream_file = before  # type: ignore


def main() -> int:
    asked = json.load(sys.stdin)
    folder = Path(asked["folder"])
    there = Repository(asked["name"], asked["private"], asked["commit"], frozenset(asked["files"]))
    progress = Progress(sum(path.stat().st_size for path in folder.iterdir()))
    telling = threading.Lock()
    ended = threading.Event()

    def tell(message: list) -> None:
        with telling:
            try:
                print(json.dumps(message), flush=True)
            except OSError:  # whoever asked is gone
                os._exit(1)

    def tell_often() -> None:
        while not ended.wait(TELL_SECONDS):
            tell(progress.message())

    def publish() -> None:
        progress.publish()
        tell(progress.message())

    threading.Thread(target=tell_often, daemon=True).start()
    try:
        with counted(progress):
            end = ["pushed", hub_push.push(folder, there, publish)]
    except UserError as error:
        end = ["refused", str(error)]
    ended.set()
    tell(end)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
