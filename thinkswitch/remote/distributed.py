"""Processes that `accelerate launch` started together on one machine: the first runs the loop, the others train along with it.

Alone, which is the rule, every function here does nothing. Torch-free until there is company.
"""

import functools
import os
from datetime import timedelta

PATIENCE = timedelta(days=30)  # the others wait while the first one thinks


def world_size() -> int:
    return (
        int(os.environ.get("WORLD_SIZE", 1)) if "MASTER_ADDR" in os.environ else 1
    )  # others use the name, too


def rank() -> int:
    """0 is the one that writes the run's folder."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


@functools.cache
def process_group():
    """torch.distributed, with the processes connected (NCCL or gloo) and each on its own GPU."""
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    return torch.distributed


def broadcast(what=None):
    """What the first process says, in every process. All must call."""
    if world_size() == 1:
        return what
    said = [what]
    process_group().broadcast_object_list(said, src=0)
    return said[0]


def all_reduce_sum(*tensors) -> None:
    """Sum tensors over all processes, in place; every process gets the same bits. All must call."""
    for tensor in tensors if world_size() > 1 else ():
        process_group().all_reduce(tensor)
