"""Shared by the tests of exports: requests, rounds, and what lies in folders."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import random_adapter
from thinkswitch import rounds
from thinkswitch.export import export as exporter
from thinkswitch.export.export import Exported, Plan
from thinkswitch.export.point import SHARD_BYTES, ExportPoint, ExportRequest
from thinkswitch.preset import Preset
from thinkswitch.recipe import Schedule
from thinkswitch.rounds import Round
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import Pair, open_pair

PRESET = Preset(name="test", device="cpu", template="thinking")
IDS = torch.arange(5, 60)[None]


def make_request(
    pair: Pair,
    state: Round,
    t: float,
    out: Path,
    *,
    schedule: Schedule = Schedule(),
    preset: Preset = PRESET,
    adapter: bool = False,
    gguf: tuple[str, ...] = (),
    replace: bool = False,
    run: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> ExportRequest:
    point = ExportPoint(pair, state, t, schedule, preset, adapter, gguf)
    return ExportRequest(point, out, replace, run, shard_bytes)


def export(
    pair: Pair,
    state: Round,
    t: float,
    out: Path,
    *,
    blend: Blend | None = None,
    slots: list[int] | None = None,
    turn: Callable[[], AbstractContextManager] = nullcontext,
    **request,
) -> Exported:
    wanted = make_request(pair, state, t, out, **request)
    return finish(exporter.export(wanted, blend, slots, turn))[0]


def plan(pair: Pair, state: Round, t: float, out: Path, **request) -> Plan:
    return exporter.plan_export(make_request(pair, state, t, out, **request))


def finish(steps) -> tuple:
    """What a generator returns, and the list of what it yields."""
    yielded = []
    while True:
        try:
            yielded.append(next(steps))
        except StopIteration as end:
            return end.value, yielded


def after_rounds(pair: Pair, count: int) -> Round:
    """The state after some rounds with random updates, of ranks 2, 3 ..."""
    state = rounds.start(pair)
    for number in range(count):
        update = random_adapter(pair, number, rank=2 + number)
        state = rounds.rebuild(pair, state, update, 0.8, "original", Schedule())
    return state


def pair_in_bf16(folders: tuple[str, str], target: Path) -> Pair:
    """A pair as vendors store it."""
    halved = []
    for folder in map(Path, folders):
        out = target / folder.name
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(out)
        AutoTokenizer.from_pretrained(folder).save_pretrained(out)
        halved.append(str(out))
    return open_pair(*halved)


def load_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def load_strictly(folder: Path):
    """The model in plain transformers, which must know every tensor and miss none."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    assert not any(report.values()), report
    return model


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden or not: {path: content, or None for a folder}."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
