"""Memory that was freed goes back to the system."""

import ctypes
import subprocess
import sys

import psutil
import pytest

from conftest import ROOT
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


LARGE_BLOCKS = """
import ctypes
from ui import malloc

malloc.keep_small()
libc = malloc.glibc()
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]


class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", *"abcdef")]


libc.mallinfo2.restype = Mallinfo2
libc.free(libc.malloc(8 << 20))
before = libc.mallinfo2().hblks  # how many blocks have a mapping of their own
assert libc.malloc(4 << 20)
print(libc.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(not hasattr(malloc.glibc(), "mallinfo2"), reason="the C library is not glibc 2.33")
def test_a_large_block_has_a_mapping_of_its_own_after_a_larger_one_was_freed():
    """Else tensors and charts lie among small blocks, and what is freed between those stays."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE_BLOCKS], capture_output=True, encoding="utf-8", cwd=ROOT
    )
    assert done.stdout.strip() == "1", done.stderr


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_called(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert malloc.trim() is False
