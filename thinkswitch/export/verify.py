"""An export loaded again and compared with the live blend: the preview equals the file.

A model that is too large to be loaded is read from its files at every call; streaming_verifier.py does so
while they are being written.
"""

import gc
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from thinkswitch import memory_plan
from thinkswitch.errors import UserError
from thinkswitch.export.comparison import Comparison, PartCall, VerificationResult, record_parts
from thinkswitch.export.point import ExportPoint
from thinkswitch.recipe import Recipe, uniform_recipe
from thinkswitch.weights.adapter import load_adapter
from thinkswitch.weights.checkpoint import DTYPES, TensorInfo, open_checkpoint
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.offload import open_offloaded
from thinkswitch.weights.prompting import render_prompt
from thinkswitch.weights.tokenizer import PROBE

PROMPTS = ("What is 7 + 5 - 3 + 8?", "Is 51 a prime number? Answer yes or no.", PROBE)
LARGE_TOKENS = 8  # of the first prompt, which is all that a large model is given


def verify(
    folder: Path,
    point: ExportPoint,
    entries: dict[str, TensorInfo],
    blend: Blend | None,
    recipe: Recipe,
    turn: Callable[[], AbstractContextManager],
) -> Generator[tuple[int, int], None, VerificationResult]:
    """Load an export as anybody would and compare it with `blend`, or one made here. Yields (step, steps).

    `turn()` is entered for each part that the blend computes: others may use it between two of them.
    """
    yield 0, 3
    calls, dtypes = record_export(folder, point)
    yield 1, 3
    gc.collect()  # before the blend is made; and Windows renames no folder with open files
    if blend is None:
        blend = make_blend(point)
    comparison = Comparison()
    with turn():
        placement = blend.place([recipe])
    for number, call in enumerate(calls):
        yield 2 * len(calls) + number, 3 * len(calls)
        with turn():
            blend.put(placement)  # at once, if nobody else has used the blend
            comparison.add(blend, call)
    yield 3, 3
    dtypes |= {DTYPES[entry.dtype] for entry in entries.values()}
    dtypes |= {parameter.dtype for parameter in blend.parameters()}
    return comparison.result(dtypes)


def record_export(folder: Path, point: ExportPoint) -> tuple[list[PartCall], set[torch.dtype]]:
    """What every part of the exported model computes for the prompts, and the types it computes in."""
    prompts = prompt_tokens(folder, point)
    model = load_export(folder, point)
    calls: list[PartCall] = []
    for ids in prompts:
        record_parts(model, ids, calls.append)
    return calls, {parameter.dtype for parameter in model.parameters()}


def prompt_tokens(folder: Path, point: ExportPoint) -> list[list[int]]:
    """Token ids of the prompts; the exported chat template must render them as its checkpoint's does."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    source = point.template_source
    rows = []
    for prompt in PROMPTS:
        text = render_prompt(tokenizer, source.prompting, prompt)
        rows.append(tokenizer.encode(text, add_special_tokens=False))
    if rows != [source.prompt_ids(prompt) for prompt in PROMPTS]:
        raise UserError(
            f"the tokenizer files of {source.name} alone do not render prompts as that checkpoint does; "
            "nothing was kept"
        )
    return [rows[0][:LARGE_TOKENS]] if point.is_large else rows


def load_export(folder: Path, point: ExportPoint) -> PreTrainedModel | Blend:
    """The export in plain transformers on the CPU, in float32; a large one with its matrices on the disk."""
    if point.adapter:
        return load_adapted(folder, point)
    model = load_in_transformers(folder, point.is_large)
    return open_offloaded(open_checkpoint(str(folder))) if point.is_large else model


def load_adapted(folder: Path, point: ExportPoint) -> PreTrainedModel | Blend:
    """The instruct checkpoint with an exported adapter: by peft, or a large one as a blend of the two."""
    if point.is_large:
        blend = Blend(point.pair, [load_adapter(folder)], stored=True)
        blend.place([uniform_recipe(point.pair.names, (1.0, 0.0, 1.0))])
        return blend
    from peft import PeftModel  # it takes two seconds to import

    base = load_in_transformers(point.pair.instruct.folder, large=False, ours=False)
    adapted: Any = PeftModel.from_pretrained(base, folder)
    return adapted.eval().get_base_model()


def load_in_transformers(folder: Path, large: bool, ours: bool = True) -> PreTrainedModel:
    """Load with transformers, which must miss no tensor, and know each of `ours`. `large`: not read."""
    with tempfile.TemporaryDirectory() as scratch:  # stays empty: safetensors are read from where they are
        options: dict[str, Any] = dict(local_files_only=True, output_loading_info=True)
        if large:
            options |= dict(device_map={"": "disk"}, offload_folder=scratch)
        else:
            options |= dict(dtype=torch.float32)
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    model, report = loaded
    if not ours:
        report.pop("unexpected_keys", None)  # left out when the pair was opened, too
    wrong = {kind.replace("_", " "): sorted(map(str, names))[:3] for kind, names in report.items() if names}
    if wrong:
        raise UserError(f"transformers does not load what was written, so nothing was kept: {wrong}")
    return model


def make_blend(point: ExportPoint) -> Blend:
    """A live blend to compare with, in plain precision where that fits; a large one stays on the disk."""
    if point.is_large:
        return Blend(point.pair, point.round.adapters, stored=True)
    machine = memory_plan.resolve_machine(point.pair, point.preset, memory_plan.LIVE)
    return Blend(point.pair, point.round.adapters, **machine)
