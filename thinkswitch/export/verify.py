"""An export loaded again and compared with the live blend, part by part: the preview equals the file.

Every attention, MLP, norm and embedding of the blend is given what the exported model gave its own, so rounding does not
add up over layers. What is too large to be loaded is read from its file at every call, tensor by tensor as it is written.
"""

import gc
import math
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from thinkswitch import memory_plan
from thinkswitch.errors import UserError
from thinkswitch.export.point import ExportPoint
from thinkswitch.recipe import Recipe, uniform_recipe
from thinkswitch.weights.adapter import load_adapter
from thinkswitch.weights.checkpoint import DTYPES, Checkpoint, TensorInfo, open_checkpoint
from thinkswitch.weights.device import limit_threads
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.offload import open_offloaded
from thinkswitch.weights.pair import PROBE

PROBES = ("What is 7 + 5 - 3 + 8?", "Is 51 a prime number? Answer yes or no.", PROBE)
LENGTH = 8  # tokens of the first of them, which is all a large one is asked
LOGITS = "the logits"


@dataclass(frozen=True)
class VerificationResult:
    error: float  # the largest |exported - live| / |live| over the parts, Euclidean norms over all positions
    same: float  # share of positions whose likeliest token is the same
    bound: float  # the largest error that rounding explains

    def __str__(self) -> str:
        return (f"Read back from its files and compared with the live blend, layer by layer: no layer's output nor the logits differ by more "
                f"than {self.error:.2g} of their norm (rounding explains up to {self.bound:g}), and the likeliest token is the same at "
                f"{100 * self.same:.1f} % of positions.")


@dataclass(frozen=True)
class PendingCheckpoint(Checkpoint):
    """A checkpoint that is being written: who asks for a tensor waits until it has come."""

    arrived: dict[str, Future]

    def tensor(self, name: str, rows: slice = slice(None)) -> torch.Tensor:
        self.arrived[name].result()
        return super().tensor(name, rows)

    def stream(self, name: str, step: int):
        self.arrived[name].result()
        return super().stream(name, step)


def verify(folder: Path, point: ExportPoint, entries: dict[str, TensorInfo], blend: Blend | None, recipe: Recipe,
           turn) -> Generator[tuple[int, int], None, VerificationResult]:
    """Load the folder as anybody would and compare it. Yields (step, 3). `turn` is entered for each part."""
    prompts, comparison, heard = probes(folder, point), Comparison(), []
    yield 0, 3
    plain = reload(folder, point)
    for ids in prompts:
        record_parts(plain, ids, lambda *call: heard.append(call))
    dtypes = {p.dtype for p in plain.parameters()} | {DTYPES[e.dtype] for e in entries.values()}
    yield 1, 3
    del plain
    gc.collect()  # before the blend is made; and Windows renames no folder with open files
    blend = blend or (Blend(point.pair, point.round.adapters, stored=True) if point.is_large else
                      Blend(point.pair, point.round.adapters, **memory_plan.resolve_machine(point.pair, point.preset, memory_plan.LIVE)))
    yield 2, 3
    with turn():
        placement = blend.place([recipe])
    for call in heard:
        with turn():
            blend.put(placement)  # others may have used the blend since the last part
            comparison.hear(blend, *call)
    yield 3, 3
    return comparison.judged(dtypes | {p.dtype for p in blend.parameters()})


def verify_while_writing(folder: Path, point: ExportPoint, entries: dict[str, TensorInfo], arrived: dict[str, Future], compared: list[Future]) -> VerificationResult:
    """Compare a large checkpoint in a thread while it is written: both parents are in the system's cache just then.

    `arrived`: of every tensor. `compared`: of every layer; told in any case in the end, so that nobody waits for ever.
    """
    comparison, layers = Comparison(), iter(compared)

    def hear(part: str, *call) -> None:
        comparison.hear(blend, part, *call)
        if part.endswith("MLP"):  # a layer's last part
            next(layers).set_result(None)

    try:
        with limit_threads(max(1, torch.get_num_threads() // 2)):
            [ids] = probes(folder, point)
            plain = open_offloaded(PendingCheckpoint(str(folder), folder, AutoConfig.from_pretrained(folder), entries, arrived))
            blend = Blend(point.pair, point.round.adapters, stored=True)
            blend.place([point.recipe])
            record_parts(plain, ids, hear)
        return comparison.judged({torch.float32, *(DTYPES[e.dtype] for e in entries.values())})
    finally:
        for layer in compared:
            if not layer.done():
                layer.set_result(None)


def probes(folder: Path, point: ExportPoint) -> list[list[int]]:
    """Token ids of a few prompts under the exported chat template, which must render them as its own checkpoint does."""
    tokenizer, source = AutoTokenizer.from_pretrained(folder, local_files_only=True), getattr(point.pair, point.template)
    rendered = [tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
                for prompt in PROBES]
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in rendered]
    if rows != [source.prompt_ids(prompt) for prompt in PROBES]:
        raise UserError(f"the tokenizer files of {source.name} alone do not render prompts as that checkpoint does; nothing was kept")
    return [rows[0][:LENGTH]] if point.is_large else rows


def reload(folder: Path, point: ExportPoint):
    """The export in plain transformers on the CPU, in float32; a large one with its matrices on the disk."""
    if point.adapter and point.is_large:
        updated = Blend(point.pair, [load_adapter(folder)], stored=True)
        updated.place([uniform_recipe(point.pair.names, (1.0, 0.0, 1.0))])
        return updated
    model = load_in_transformers(point.pair.instruct.folder if point.adapter else folder, point.is_large)
    if point.adapter:
        from peft import PeftModel
        return PeftModel.from_pretrained(model, folder).eval().get_base_model()
    return open_offloaded(open_checkpoint(str(folder))) if point.is_large else model


def load_in_transformers(folder: Path, large: bool):
    """Loaded by transformers, to which every tensor must be known, and none missing. `large`: it is asked only, and reads nothing."""
    with tempfile.TemporaryDirectory() as scratch:  # stays empty: what lies in safetensors is read from there
        where = dict(device_map={"": "disk"}, offload_folder=scratch) if large else dict(dtype=torch.float32)
        model, told = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, output_loading_info=True, **where)
    wrong = {kind.replace("_", " "): sorted(map(str, names))[:3] for kind, names in told.items() if names}
    if wrong:
        raise UserError(f"transformers does not load what was written, so nothing was kept: {wrong}")
    return model


def parts(model) -> dict[str, torch.nn.Module]:
    """Every part of a model that computes something, by the name a person gets to read."""
    model = model.model if isinstance(model, Blend) else model
    found = {"the embedding": model.model.embed_tokens, "the rotary table": model.model.rotary_emb}
    for i, layer in enumerate(model.model.layers, 1):
        found |= {f"layer {i}, first norm": layer.input_layernorm, f"layer {i}, attention": layer.self_attn,
                  f"layer {i}, second norm": layer.post_attention_layernorm, f"layer {i}, MLP": layer.mlp}
    return found | {"the last norm": model.model.norm, LOGITS: model.lm_head}


@torch.inference_mode()
def record_parts(model, ids: list[int], heard: Callable[[str, tuple, dict, object], None]) -> None:
    """Run a prompt through a model; `heard` gets every part's name, arguments and result."""
    def hook(name: str):
        return lambda module, args, kwargs, out: heard(name, args, kwargs, out)

    hooks = [part.register_forward_hook(hook(name), with_kwargs=True) for name, part in parts(model).items()]
    try:
        model(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        for each in hooks:
            each.remove()


class Comparison:
    """Sums of squares over all that has been heard: one position's own error says little where its values are small; its
    maximum was 0.1 for mere bf16, 1.2 for NF4."""

    def __init__(self):
        self.sums: dict[str, tuple[float, float]] = {}  # part: |exported - live|^2, |live|^2
        self.same: list[torch.Tensor] = []

    @torch.inference_mode()
    def hear(self, blend: Blend, name: str, args: tuple, kwargs: dict, out) -> None:
        """Give the blend's part what the exported model's was given."""
        live = parts(blend)[name](*to_blend(args, blend), **to_blend(kwargs, blend))
        off, size = self.sums.get(name, (0.0, 0.0))
        for a, b in zip(output_tensors(out), output_tensors(live), strict=True):
            off, size = off + float((a - b).square().sum()), size + float(b.square().sum())
            self.same += [(a.argmax(-1) == b.argmax(-1)).flatten()] if name == LOGITS else []
        self.sums[name] = off, size

    def judged(self, dtypes: set[torch.dtype]) -> VerificationResult:
        errors = {name: math.sqrt(off / size) if size else math.inf * off if off else 0.0 for name, (off, size) in self.sums.items()}
        place = next((name for name, error in errors.items() if math.isnan(error)), None) or max(errors, key=errors.get)
        found = VerificationResult(errors[place], float(torch.cat(self.same).float().mean()), error_bound(dtypes))
        if not found.error <= found.bound:  # so is NaN
            raise UserError(f"the files written differ from the live blend by {found.error:.2g} at {place} (relative) where rounding explains "
                            f"{found.bound:g}, so nothing was kept; try again with four_bit=false and dtype=float32, and check the disk")
        return found


def to_blend(given, blend: Blend):
    """Arguments of a call, as the blend computes."""
    if isinstance(given, torch.Tensor):
        return given.to(blend.device, blend.dtype if given.is_floating_point() else given.dtype)
    if isinstance(given, tuple):
        return tuple(to_blend(each, blend) for each in given)
    return {k: to_blend(v, blend) for k, v in given.items()} if isinstance(given, dict) else given


def output_tensors(out) -> list[torch.Tensor]:
    """Those of a part's result: attention returns its weights beside, which are None here; the rotary table is two."""
    return [each.float().cpu() for each in (out if isinstance(out, tuple) else (out,)) if each is not None]


def error_bound(dtypes: set[torch.dtype]) -> float:
    """The largest error that rounding explains, by what either side was rounded to. Measured on the embedded pair:

    float32 (sums in another order): up to 1e-5. bf16, fp16 (each weight off by up to 2^-9, 2^-11 of itself): 0.003 stored, 0.011 if
    the blend computes in it, too; random 4 B 0.005. NF4 (each weight of a layer off by 9 %): 0.06 to 0.1; random weights 0.2.
    A point off by 0.05 in t: 0.03; by 0.1: 0.06; the other end: 0.3. So against NF4 only gross damage shows.
    """
    return 0.3 if torch.uint8 in dtypes else 1e-4 if dtypes == {torch.float32} else 3e-2
