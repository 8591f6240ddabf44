"""Processes that `accelerate launch` started together on one machine, one for each GPU.

Rank 0 runs the loop; the others train along (cli/worker.py). In a single process, which is the rule, every
function here does nothing, and torch is not imported.
"""

import functools
import os
from datetime import timedelta
from typing import Any

TIMEOUT = timedelta(days=30)  # the other ranks wait for rank 0 while it thinks and measures


class RunEnded(Exception):
    """Rank 0 has left the run in the middle of a training."""


def world_size() -> int:
    """The number of processes."""
    launched = "MASTER_ADDR" in os.environ  # other programs set WORLD_SIZE, too
    return int(os.environ.get("WORLD_SIZE", "1")) if launched else 1


def rank() -> int:
    """The number of this process; rank 0 writes the run folder."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


@functools.cache
def process_group():
    """torch.distributed with the processes connected (NCCL or gloo), each on its own GPU."""
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
    return torch.distributed


def broadcast(value: Any = None) -> Any:
    """Rank 0's value, in every process. Collective: all ranks must call it."""
    if world_size() == 1:
        return value
    values = [value]
    process_group().broadcast_object_list(values, src=0)
    return values[0]


def all_reduce_sum(tensor) -> None:
    """Sum a tensor over all processes, in place; each gets the same bits. Collective."""
    if world_size() > 1:
        process_group().all_reduce(tensor)
