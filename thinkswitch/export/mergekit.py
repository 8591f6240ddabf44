"""The same point as a configuration of mergekit, where mergekit can express it."""

import yaml

from thinkswitch.export.point import ExportPoint, public_name
from thinkswitch.weights.checkpoint import TensorInfo

# A filter is part of a tensor's name; the first that fits counts. Norms come first: q_norm is in self_attn.
FILTERS = {
    "norm": "norm",
    "self_attn": "attention",
    "conv": "attention",
    "mlp": "mlp",
    "feed_forward": "mlp",
}  # the module kind of each
DTYPE_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def mergekit_config(point: ExportPoint, entries: dict[str, TensorInfo]) -> str | None:
    """YAML for mergekit's SLERP of whole tensors; None where LoRA updates take part, which it cannot express.

    Its gradients run over the layers, as a schedule's depth does; neither changes the last norm.
    """
    if point.adapter or point.round.number:
        return None
    instruct, thinking = public_name(point.pair.instruct), public_name(point.pair.thinking)
    layers = [0, point.pair.config.num_hidden_layers]
    t = [
        {"filter": part, "value": t_over_depth(point, kind)}
        for part, kind in FILTERS.items()
        if any(f"{part}." in name for name in entries)
    ]
    t.append({"value": min(1.0, point.t * point.schedule.embedding)})  # whatever no filter fits
    sources = [{"model": side, "layer_range": layers} for side in (instruct, thinking)]
    config = {
        "slices": [{"sources": sources}],
        "merge_method": "slerp",
        "base_model": instruct,
        "parameters": {"t": t},
        "dtype": DTYPE_NAMES[next(iter(entries.values())).dtype],
        # no tokenizer: naming one makes mergekit cut the embedding to its vocabulary (tried with 0.1.5)
    }
    return yaml.safe_dump(config, sort_keys=False, width=10**9)


def t_over_depth(point: ExportPoint, kind: str) -> float | list[float]:
    """t of a module kind: one number, or a list of them that mergekit spreads over the layers."""
    t = point.t * getattr(point.schedule, kind)
    curve = [min(1.0, max(0.0, t * factor)) for factor in point.schedule.depth]
    return curve if len(curve) > 1 else curve[0]
