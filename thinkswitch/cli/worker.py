"""What the other processes of `accelerate launch` do: their share of each distillation."""

from contextlib import suppress
from pathlib import Path

from thinkswitch import rounds, runs
from thinkswitch.errors import UserError
from thinkswitch.loop import distil
from thinkswitch.memory_plan import LOOP, resolve_machine
from thinkswitch.remote import distributed
from thinkswitch.run_context import RunContext, open_pair_of_run


def worker_main() -> None:
    """Train along whenever rank 0 distils; ends when rank 0 broadcasts None, even in mid-training."""
    with suppress(distributed.RunEnded):
        while task := distributed.broadcast():
            train_along(*task)


def train_along(folder: Path, number: int) -> None:
    """This process's share of one round's distillation."""
    preset = runs.open_run(folder)
    pair, origin = open_pair_of_run(preset, folder)
    context = RunContext(preset, folder, pair, [], [], resolve_machine(pair, preset, LOOP), origin)
    samples = runs.read_samples(runs.round_dir(folder, number) / "samples.jsonl")
    kept = [sample for sample in samples if sample["kept"]]
    with suppress(UserError):  # rank 0 raises the same error and reports it
        for _ in distil(context, rounds.read(folder, number - 1), kept):
            pass
