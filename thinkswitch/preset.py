"""Preset: every knob of a run once – its default, help and range. YAML in and out. Torch-free.

A preset file is a diff against these defaults; the command line's `--set` and the app's form are derived from the
same fields. What the paper (arXiv 2606.01080) leaves open is a knob; its stated choices are the defaults.
"""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule

PRESETS = Path(__file__).parents[1] / "presets"


def setting(default, help: str, low=None, high=None, choices=None, path=False, hide_in_demo=False, group=None):
    """`path`: relative to the file that names it. `hide_in_demo`: names a place that visitors of a public page need not know."""
    return field(default=default, metadata=dict(help=help, low=low, high=high, choices=choices, path=path, hide_in_demo=hide_in_demo, group=group))


def _check(preset) -> None:
    for f in dataclasses.fields(preset):
        value = getattr(preset, f.name)
        low, high, choices = f.metadata["low"], f.metadata["high"], f.metadata["choices"]
        if low is not None and not low <= value <= high:  # also refuses NaN
            raise UserError(f"{f.name} must lie between {low} and {high}, it is {value}")
        if choices and value not in choices:
            raise UserError(f"{f.name} must be one of {', '.join(choices)}, it is {value!r}")


def check_schedule(schedule: Schedule) -> Schedule:
    """The same schedule; refuses multipliers outside 0..2."""
    if not schedule.depth:
        raise UserError("depth must hold at least one multiplier")
    factors = {"attention": [schedule.attention], "mlp": [schedule.mlp], "norm": [schedule.norm],
               "embedding": [schedule.embedding], "depth": schedule.depth}
    for name, values in factors.items():
        for value in values:
            if not 0 <= value <= 2:
                raise UserError(f"{name} must lie between 0 and 2, it is {value}")
    return schedule


@dataclass(frozen=True)
class Preset:
    name: str = setting("", "what this preset is called", group="The pair")
    instruct: str = setting("", "instruct checkpoint: a folder or a Hub id", path=True, hide_in_demo=True)
    thinking: str = setting("", "thinking checkpoint: a folder or a Hub id", path=True, hide_in_demo=True)

    train_set: str = setting("", "training prompts: a JSONL file or owner/name[/config]:split", path=True, hide_in_demo=True, group="The task")
    held_out_set: str = setting("", "problems that score: a JSONL file or owner/name[/config]:split; may equal train_set", path=True, hide_in_demo=True)
    prompt_template: str = setting("{prompt}", "how a row's columns become the prompt")
    answer_column: str = setting("answer", "the column of the right answer")
    kind: str = setting("text", "how answers are compared, where a row does not say", choices=("integer", "choice", "math", "text"))
    prompts: int = setting(15, "training prompts a round", 1, 1_000_000)
    held_out: int = setting(30, "held-out problems that score every round", 1, 1_000_000)
    fresh: bool = setting(False, "new training prompts every round (the paper repeats one set)")

    rounds: int = setting(3, "rounds of the loop", 1, 100, group="The loop")
    t: float = setting(0.8, "where the new thinking checkpoint lies: 0 = new instruct, 1 = anchor", 0, 1)
    anchor: str = setting("original", "the thinking end of the rebuild", choices=("previous", "original"))
    schedule: Schedule = setting(Schedule(), "multipliers of t per module kind and over depth")
    labels: str = setting("thinking", "who answers the prompts; self and shuffled are controls", choices=("thinking", "self", "shuffled"))
    teacher: str = setting("", "an OpenAI-compatible server that thinks instead of this machine, such as http://127.0.0.1:8000/v1", hide_in_demo=True)
    teacher_model: str = setting("", "the name under which it serves the thinking checkpoint; empty = its first")
    samples: int = setting(1, "answers sampled per prompt; above 1 the majority's is kept", 1, 256)
    soft: bool = setting(False, "distil the teacher's top-k distribution given its trace, not only its words")
    soft_top_k: int = setting(16, "tokens of the teacher's distribution that are kept", 1, 1024)
    seed: int = setting(0, "everything random derives from it", 0, 2**31 - 1)

    think_temperature: float = setting(0.6, "thinking checkpoint: temperature (0 = greedy)", 0, 10, group="Sampling")
    think_top_p: float = setting(0.95, "thinking checkpoint: top-p", 0.01, 1)
    think_top_k: int = setting(20, "thinking checkpoint: top-k (0 = all)", 0, 1_000_000)
    think_tokens: int = setting(16384, "thinking checkpoint: most new tokens, trace and answer", 1, 1_000_000)
    instruct_temperature: float = setting(0.7, "instruct checkpoint: temperature (0 = greedy)", 0, 10)
    instruct_top_p: float = setting(0.8, "instruct checkpoint: top-p", 0.01, 1)
    instruct_top_k: int = setting(20, "instruct checkpoint: top-k (0 = all)", 0, 1_000_000)
    instruct_tokens: int = setting(4096, "instruct checkpoint: most new tokens", 1, 1_000_000)
    greedy: bool = setting(False, "measure and sweep greedily instead of with each checkpoint's sampling")
    template: str = setting("instruct", "the one chat template of a sweep and of blends; the parents keep their own",
                         choices=("instruct", "thinking"))
    rows: int = setting(8, "sequences decoded at once", 1, 65536)

    epochs: int = setting(3, "passes over the kept answers", 1, 1000, group="Distillation")
    batch: int = setting(4, "answers per optimiser step", 1, 65536)
    micro_batch: int = setting(1, "answers per forward pass; the rest of the batch is accumulated", 1, 65536)
    learning_rate: float = setting(2e-4, "peak learning rate", 0, 10)
    warmup: float = setting(0.05, "share of the steps that warm up", 0, 1)
    decay: str = setting("cosine", "learning rate after the warm-up", choices=("cosine", "linear", "constant"))
    weight_decay: float = setting(0.0, "AdamW's weight decay", 0, 1)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", 0, 1e9)
    save_steps: int = setting(50, "steps between saves that a killed run goes on from", 1, 1_000_000)
    max_length: int = setting(4096, "prompt and answer longer than this many tokens are dropped", 8, 1_000_000)
    lora_rank: int = setting(16, "LoRA rank", 1, 4096)
    lora_alpha: float = setting(32.0, "LoRA alpha; the update is scaled by alpha / rank", 0, 1e6)
    lora_dropout: float = setting(0.0, "LoRA dropout", 0, 0.9)
    lora_targets: str = setting("all-linear", "all-linear, or names such as q_proj,v_proj")

    four_bit: bool | None = setting(None, "4-bit (NF4) weights; auto = where plain ones would not fit", group="The machine")
    dtype: str = setting("auto", "arithmetic; auto = float32 on a CPU, bfloat16 or float16 on a GPU",
                      choices=("auto", "float32", "bfloat16", "float16"))
    device: str = setting("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    price_per_hour: float = setting(0.0, "what an hour of this machine costs; 0 = count energy instead", 0, 1e6)
    price_per_kwh: float = setting(0.30, "what a kilowatt-hour costs", 0, 1e6)
    watts: float = setting(0.0, "what the machine draws; 0 = as its NVIDIA card tells", 0, 1e6)

    def __post_init__(self):
        _check(self)
        check_schedule(self.schedule)
        if not 0 < self.learning_rate:
            raise UserError(f"learning_rate must be above 0, it is {self.learning_rate}")
        if self.soft and self.labels != "thinking":  # the teacher's distribution would be the right labels again
            raise UserError(f"soft answers are the thinking checkpoint's own, so labels must be thinking, not {self.labels}")
        if self.teacher and not self.teacher.startswith(("http://", "https://")):
            raise UserError(f"teacher must be an address such as http://127.0.0.1:8000/v1, it is {self.teacher!r}")


def load_preset(name: str | Path) -> Preset:
    """A preset by file, by folder of a run (its preset.yaml), or by the name of one that ships ('tiny')."""
    path = Path(name)
    if path.is_dir():
        path = path / "preset.yaml"
    if not path.is_file():
        shipped = PRESETS / f"{name}.yaml"
        if not shipped.is_file():
            known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
            raise UserError(f"no preset {str(name)!r}: neither a YAML file, a run folder, nor one of: {known}")
        path = shipped
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise UserError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold 'setting: value' lines, it holds a {type(values).__name__}")
    return make_preset({**values, **_resolved(values, path.parent)}, str(path))


def make_preset(values: dict, where: str = "preset", base: Preset = Preset()) -> Preset:
    """`base` with some knobs changed. Values may be text, as from a command line."""
    return dataclasses.replace(base, **_coerce_all(Preset, values, where))


def apply_settings(base: Preset, settings: list[str]) -> Preset:
    """`base` with command-line settings such as `rounds=2`, `schedule={mlp: 1, attention: 0}`."""
    pairs = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set wants key=value, it got {text!r}")
        try:
            pairs[key.strip()] = yaml.safe_load(value) if key.strip() == "schedule" else value
        except (yaml.YAMLError, ValueError):
            raise UserError(f"--set {text}: not readable as YAML; write schedule={{mlp: 1, attention: 0}}") from None
    return make_preset({**pairs, **_resolved(pairs, Path.cwd())}, "--set", base)


def changed_settings(base: Preset, preset: Preset) -> list[str]:
    """What `--set` needs to make `preset` of `base`: the inverse of `from_settings`."""
    changed = [(f.name, getattr(preset, f.name)) for f in dataclasses.fields(preset) if getattr(preset, f.name) != getattr(base, f.name)]
    return [f"{name}={_plain(value)}" for name, value in changed]


def _plain(value) -> str:
    if dataclasses.is_dataclass(value):
        return yaml.safe_dump({k: list(v) if isinstance(v, tuple) else v for k, v in vars(value).items()},
                              default_flow_style=True, width=10**9).strip()
    return "auto" if value is None else repr(value) if isinstance(value, float) else str(value)


def to_yaml(preset: Preset, only_changes: bool = False) -> str:
    """All knobs under their headings with their help, ready to be edited; or only those off their default."""
    lines = []
    for f in dataclasses.fields(preset):
        value = getattr(preset, f.name)
        if only_changes and value == f.default:
            continue
        if f.metadata["group"]:
            lines += ["", f"# {f.metadata['group']}"]
        plain = dataclasses.is_dataclass(value) and {k: list(v) if isinstance(v, tuple) else v for k, v in vars(value).items()}
        text = (f"{f.name}: {yaml.safe_dump(plain, default_flow_style=True, width=10**9)}" if plain else
                yaml.safe_dump({f.name: value}, default_flow_style=False, allow_unicode=True, width=10**9)).strip()
        lines.append(text if only_changes or "\n" in text else f"{text}  # {f.metadata['help']}")
    return "\n".join(lines).strip() + "\n"


def _resolved(values: dict, folder: Path) -> dict:
    """Paths are relative to the file that names them; what does not exist there is left as a Hub id."""
    paths = {f.name for f in dataclasses.fields(Preset) if f.metadata["path"]}
    return {k: str((folder / v).resolve()) for k, v in values.items()
            if k in paths and isinstance(v, str) and v and (folder / v).exists()}


def _coerce_all(cls, values: dict, where: str) -> dict:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = [k for k in values if k not in fields]
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), fields, 1)
        raise UserError(f"{where}: unknown setting {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else
                        f"; known are {', '.join(fields)}"))
    types_ = typing.get_type_hints(cls)
    return {k: _coerce(v, types_[k], f"{where}: {k}") for k, v in values.items()}


def _coerce(value, kind, where: str):
    """By the field's type, since YAML reads 1e-5 as text and a command line has text only."""
    wrong = UserError(f"{where} must be {_kind_name(kind)}, it is {value!r}")
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{where} must be a mapping such as {{mlp: 1, attention: 0}}, it is {value!r}")
        return kind(**_coerce_all(kind, value, where))
    value = value.strip() if isinstance(value, str) and kind is not str else value
    if isinstance(kind, types.UnionType):  # bool | None
        return None if value in (None, "auto", "none") else _coerce(value, typing.get_args(kind)[0], where)
    if typing.get_origin(kind) is tuple:
        return tuple(_coerce(v, float, where) for v in (value if isinstance(value, (list, tuple)) else [value]))
    if kind is bool:
        words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
        if isinstance(value, bool):
            return value
        if str(value).lower() not in words:
            raise wrong
        return words[str(value).lower()]
    if kind is str:
        if isinstance(value, (dict, list)) or value is None:
            raise wrong
        return str(value)
    if isinstance(value, bool):
        raise wrong
    try:
        number = float(value)
        if kind is int and number != int(number):
            raise wrong
        return kind(value) if isinstance(value, (int, str)) and kind is int and "e" not in str(value).lower() else kind(number)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None


def _kind_name(kind) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, "true, false or auto" if isinstance(kind, types.UnionType) else "a list of numbers")
