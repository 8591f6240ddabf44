"""Memory that was freed goes back to the system."""

import ctypes
import sys

import psutil
import pytest

from ui import malloc

BLOCK = 1 << 16  # bytes: too small for a mapping of its own
COUNT = 2000


@pytest.mark.skipif(not malloc.trim(), reason="the C library is not glibc")
def test_what_was_freed_between_what_is_kept_is_given_back():
    """A page's memory grew by 0.2 GB an hour, most of it free: glibc gives back what lies at the end only."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(BLOCK) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    kept = blocks[::16] + blocks[-1:]
    for block in set(blocks) - set(kept):
        libc.free(block)
    before = psutil.Process().memory_info().rss
    malloc.trim()
    after = psutil.Process().memory_info().rss
    for block in set(kept):
        libc.free(block)
    assert before - after > 0.7 * COUNT * BLOCK


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_called(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert malloc.trim() is False
