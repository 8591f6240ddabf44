"""The memory that Python and torch have freed, and the C library has kept.

Between what is in use, glibc holds on to what was freed: after an hour of use 0.35 GB beside 0.2 GB in use,
and it grew. Each thread takes blocks from an arena of its own, and once a large block was freed, blocks up to
that size come from there, too.
"""

import ctypes
import sys
import threading
import time

TRIM_SECONDS = 30.0
ARENAS = 2
LARGE_BYTES = 1 << 20  # of a block that has a mapping of its own, which goes back as soon as it is freed
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # of glibc's mallopt


def keep_small() -> None:
    """Call early. From then on what is free goes back to the system, once in a while by a thread: 0.03 s."""
    libc = glibc()
    if libc is not None:
        libc.mallopt(M_ARENA_MAX, ARENAS)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        threading.Thread(target=_trim_for_ever, daemon=True).start()


def _trim_for_ever() -> None:
    while trim():
        time.sleep(TRIM_SECONDS)


def trim() -> bool:
    """Give back what is free; False where the C library is not glibc."""
    libc = glibc()
    if libc is None:
        return False
    libc.malloc_trim(0)
    return True


def glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
