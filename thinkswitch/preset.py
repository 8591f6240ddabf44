"""Preset: every setting of a run once, with its default, help and range. Torch-free.

A preset file states differences from these defaults; `--set` and the page's form use the same fields.
Choices that the paper (arXiv 2606.01080) leaves open are settings; values that it states are the defaults.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from thinkswitch import answer_pattern, paths
from thinkswitch.errors import UserError, quote
from thinkswitch.grading import KINDS, TOLERANCE
from thinkswitch.recipe import Schedule
from thinkswitch.values import TemplateArgs, ThinkTags, parse_fields, to_plain, to_text

PRESETS = paths.SHIPPED
LARGEST_FACTOR = 2  # of a schedule


def setting(
    default, help_text: str, low=None, high=None, choices=None, is_path=False, hide_in_demo=False, group=None
):
    """A field of the preset. Numbers lie in low..high, text is one of `choices`.

    is_path: a relative path starts at the folder of the file that holds it.
    hide_in_demo: the form of a public demo leaves it out, since it names a file, or names or starts a server.
    group: the heading that begins here.
    """
    metadata = dict(
        help=help_text,
        low=low,
        high=high,
        choices=choices,
        is_path=is_path,
        hide_in_demo=hide_in_demo,
        group=group,
    )
    return field(default=default, metadata=metadata)


def location(help_text: str, group: str | None = None):
    """A setting that names a file, a folder or something on the Hub."""
    return setting("", help_text, is_path=True, hide_in_demo=True, group=group)


# Not a pydantic model: it reads `true` as 1, and each type would need a validator and each message a rewrite.
@dataclass(frozen=True)
class Preset:
    name: str = setting("", "Name of this preset.", group="The pair")
    instruct: str = location("Checkpoint that answers at once: a folder or a Hub id.")
    thinking: str = location(
        "Checkpoint that writes a reasoning trace first: a folder or a Hub id. "
        "Or a LoRA adapter on the instruct checkpoint, also written instruct+adapter."
    )
    think_tags: ThinkTags = setting(
        "auto",
        "What opens and closes a trace, such as [<think>, </think>]. auto = found in the chat template.",
    )
    instruct_template_args: TemplateArgs = setting(
        "", "Arguments of the instruct checkpoint's chat template, such as {enable_thinking: false}."
    )
    thinking_template_args: TemplateArgs = setting(
        "", "Arguments of the thinking checkpoint's chat template, such as {enable_thinking: true}."
    )
    instruct_system: str = setting("", "System prompt of the instruct checkpoint. Empty = none.")
    thinking_system: str = setting("", "System prompt of the thinking checkpoint. Empty = none.")

    train_set: str = location(
        "Prompts to train on: a file (JSONL, JSON, CSV, Parquet) or a Hub set, owner/name[/config][:split].",
        group="The task",
    )
    held_out_set: str = location(
        "Problems to score, named in the same way. May be the same set: it is then divided."
    )
    prompt_template: str = setting(
        "{prompt}", "Text of a prompt; {column} stands for a column. Left as it is, a usual name will do."
    )
    answer_column: str = setting(
        "answer", "Column that holds the right answer. Left as it is, a usual name will do."
    )
    kind: str = setting(
        "text",
        "How answers are compared, unless the row has a kind of its own.",
        choices=tuple(KINDS),
    )
    answer_pattern: str = setting(
        "",
        "Regular expression that takes the answer out of its column, such as ####\\s*(.+); and out of "
        "responses, where prompts show that form.",
    )
    tolerance: float = setting(
        TOLERANCE, "Answers of the kind number: how far off is right, as a share of the right answer.", 0, 1
    )
    prompts: int = setting(15, "Training prompts per round.", 1, 1_000_000)
    held_out: int = setting(30, "Problems scored after every round, never trained on.", 1, 1_000_000)
    fresh: bool = setting(False, "Use new training prompts in every round. The paper repeats the same ones.")

    rounds: int = setting(3, "How many times the loop is repeated.", 1, 100, group="The loop")
    t: float = setting(0.8, "Where the new thinking checkpoint lies: 0 = new instruct, 1 = anchor.", 0, 1)
    anchor: str = setting(
        "original",
        "Which thinking checkpoint the new one is interpolated towards.",
        choices=("previous", "original"),
    )
    schedule: Schedule = setting(Schedule(), "Factors of t for each kind of module and over depth.")
    labels: str = setting(
        "thinking",
        "Who writes the answers to train on. Controls: self (the instruct checkpoint), shuffled.",
        choices=("thinking", "self", "shuffled"),
    )
    teacher: str = setting(
        "",
        "OpenAI-compatible server that runs the thinking checkpoint, such as http://127.0.0.1:8000/v1. "
        "Empty = this machine does.",
        hide_in_demo=True,
    )
    teacher_model: str = setting("", "Model name on that server. Empty = the first one it lists.")
    engine: str = setting(
        "auto",
        "What runs the thinking checkpoint while it labels. All but torch may write other bytes for a seed. "
        "auto = the quicker one.",
        choices=("auto", "torch", "llama.cpp", "vllm"),
        hide_in_demo=True,
    )
    samples: int = setting(
        1, "Answers sampled per prompt. With several, one of the majority is kept.", 1, 256
    )
    soft: bool = setting(
        False, "Train on the teacher's probabilities (given its trace) instead of its words alone."
    )
    soft_top_k: int = setting(16, "With soft: how many of the teacher's likeliest tokens are kept.", 1, 1024)
    seed: int = setting(0, "Determines everything that is drawn at random.", 0, 2**31 - 1)

    think_temperature: float = setting(0.6, "Thinking checkpoint. 0 = greedy.", 0, 10, group="Sampling")
    think_top_p: float = setting(0.95, "Thinking checkpoint. 1 = no limit.", 0.01, 1)
    think_top_k: int = setting(20, "Thinking checkpoint. 0 = no limit.", 0, 1_000_000)
    think_min_p: float = setting(
        0.0, "Thinking checkpoint. Drops tokens below this share of the likeliest one's probability.", 0, 1
    )
    think_repetition_penalty: float = setting(
        1.0, "Thinking checkpoint. Against tokens of the prompt and the answer. 1 = none.", 0.01, 10
    )
    think_presence_penalty: float = setting(
        0.0, "Thinking checkpoint. Taken from the logit of every token that the answer has.", -2, 2
    )
    think_tokens: int = setting(
        16384, "Thinking checkpoint: most new tokens, trace and answer together.", 1, 1_000_000
    )
    instruct_temperature: float = setting(0.7, "Instruct checkpoint. 0 = greedy.", 0, 10)
    instruct_top_p: float = setting(0.8, "Instruct checkpoint. 1 = no limit.", 0.01, 1)
    instruct_top_k: int = setting(20, "Instruct checkpoint. 0 = no limit.", 0, 1_000_000)
    instruct_min_p: float = setting(
        0.0, "Instruct checkpoint. Drops tokens below this share of the likeliest one's probability.", 0, 1
    )
    instruct_repetition_penalty: float = setting(
        1.0, "Instruct checkpoint. Against tokens of the prompt and the answer. 1 = none.", 0.01, 10
    )
    instruct_presence_penalty: float = setting(
        0.0, "Instruct checkpoint. Taken from the logit of every token that the answer has.", -2, 2
    )
    instruct_tokens: int = setting(4096, "Instruct checkpoint: most new tokens.", 1, 1_000_000)
    greedy: bool = setting(
        False, "Score and sweep without sampling: always take the likeliest token. Penalties stay."
    )
    template: str = setting(
        "instruct",
        "Chat template of sweeps and blends. Each of the two checkpoints keeps its own.",
        choices=("instruct", "thinking"),
    )
    rows: int = setting(8, "Sequences decoded at once. More are faster and need more memory.", 1, 65536)

    epochs: int = setting(3, "Passes over the kept answers.", 1, 1000, group="Distillation")
    batch: int = setting(4, "Answers per optimiser step.", 1, 65536)
    micro_batch: int = setting(1, "Answers per forward pass; gradients add up to the batch.", 1, 65536)
    learning_rate: float = setting(2e-4, "Its peak, reached after the warm-up.", 0, 10)
    warmup: float = setting(0.05, "Share of the steps in which the learning rate rises.", 0, 1)
    decay: str = setting(
        "cosine", "Shape of the learning rate after the warm-up.", choices=("cosine", "linear", "constant")
    )
    weight_decay: float = setting(0.0, "Of the optimiser, AdamW.", 0, 1)
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this norm.", 0, 1e9)
    save_steps: int = setting(
        50, "Optimiser steps between saves. A killed run resumes from the last.", 1, 1_000_000
    )
    max_length: int = setting(4096, "Samples longer than this many tokens are dropped.", 8, 1_000_000)
    lora_rank: int = setting(16, "Rank of the adapter that a round adds.", 1, 4096)
    lora_alpha: float = setting(32.0, "The adapter's update is multiplied by alpha / rank.", 0, 1e6)
    lora_dropout: float = setting(0.0, "Share of the adapter's inputs that training drops.", 0, 0.9)
    lora_targets: str = setting(
        "all-linear", "Layers that get an adapter: all-linear, or names such as q_proj,v_proj."
    )

    four_bit: bool | None = setting(
        None, "Hold weights in 4 bits (NF4). auto = only if 16 bits do not fit.", group="The machine"
    )
    dtype: str = setting(
        "auto",
        "Number format for computing. auto = bfloat16 where it is fast, else float32 (CPU), float16 (GPU).",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    device: str = setting(
        "auto", "Where to compute. auto = a GPU if there is one.", choices=("auto", "cpu", "cuda", "mps")
    )
    price_per_hour: float = setting(
        0.0, "Price of an hour of this machine. 0 = count electricity instead.", 0, 1e6
    )
    price_per_kwh: float = setting(0.30, "Price of a kilowatt-hour of electricity.", 0, 1e6)
    watts: float = setting(0.0, "Power draw, used where nvidia-smi reports none. 0 = unknown.", 0, 1e6)

    def __post_init__(self):
        _check_ranges(self)
        check_schedule(self.schedule)
        answer_pattern.check(self.answer_pattern)
        if self.learning_rate <= 0:
            raise UserError(f"learning_rate must be above 0, it is {self.learning_rate}")
        if self.soft and self.labels != "thinking":
            # The controls train on wrong labels; the teacher's probabilities would make them right again.
            problem = "soft trains on the thinking checkpoint's own probabilities"
            raise UserError(f"{problem}, so labels must be thinking, not {self.labels}")
        if self.teacher and not self.teacher.startswith(("http://", "https://")):
            example = "http://127.0.0.1:8000/v1"
            raise UserError(f"teacher must be an address such as {example}, it is {quote(self.teacher)}")
        if self.teacher and self.engine != "auto":
            raise UserError(
                f"a teacher thinks elsewhere, so engine={self.engine} has no part; set one of them"
            )
        if re.search(r"//[^/]*@|[?#]", self.teacher):  # it would be written into preset.yaml and run.json
            raise UserError("teacher must hold no password or key; set OPENAI_API_KEY in the environment")


def _check_ranges(preset: Preset) -> None:
    for f in dataclasses.fields(preset):
        value = getattr(preset, f.name)
        low, high, choices = f.metadata["low"], f.metadata["high"], f.metadata["choices"]
        if low is not None and not low <= value <= high:  # NaN is refused, too
            raise UserError(f"{f.name} must lie between {low} and {high}, it is {value}")
        if choices and value not in choices:
            raise UserError(f"{f.name} must be one of {', '.join(choices)}, it is {quote(value)}")


def check_schedule(schedule: Schedule) -> Schedule:
    """The same schedule; refuses factors outside 0..2 and an empty `depth`."""
    if not schedule.depth:
        raise UserError("depth must hold at least one factor")
    for name, factors in to_plain(schedule).items():
        for factor in factors if name == "depth" else [factors]:
            if not 0 <= factor <= LARGEST_FACTOR:
                raise UserError(f"{name} must lie between 0 and {LARGEST_FACTOR}, it is {factor}")
    return schedule


def load_preset(name: str | Path) -> Preset:
    """A preset from a YAML file, from the folder of a run (its preset.yaml), or by its name in presets/."""
    path = preset_file(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip("\0") and path.with_name("run.json").exists():  # another run than it was
            raise UserError(f"{path} is empty, as a power failure leaves it; copy it from elsewhere")
        values = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:  # ValueError: an impossible date
        raise UserError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold 'setting: value' lines, it holds a {type(values).__name__}")
    return make_preset(_resolve_paths(values, path.parent), str(path))


def preset_file(name: str | Path) -> Path:
    path = Path(paths.pasted(str(name)))
    if path.is_dir():
        path = path / "preset.yaml"
    if path.is_file():
        return path
    shipped = PRESETS / f"{name}.yaml"
    if not shipped.is_file():
        known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
        raise UserError(f"no preset {str(name)!r}: neither a YAML file, a run folder, nor one of: {known}")
    return shipped


def make_preset(values: dict, where: str = "preset", base: Preset | None = None) -> Preset:
    """`base` (or the defaults) with some settings changed. Values may be text; `where` begins every error."""
    return dataclasses.replace(base or Preset(), **parse_fields(Preset, values, where))


def apply_settings(base: Preset, settings: list[str]) -> Preset:
    """`base` with settings of a command line such as `rounds=2` or `schedule={mlp: 1, attention: 0}`."""
    values = {}
    for text in settings:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise UserError(f"--set wants key=value, it got {text!r}")
        try:
            values[name] = yaml.safe_load(value) if name == "schedule" else value
        except (yaml.YAMLError, ValueError, RecursionError):
            example = "schedule={mlp: 1, attention: 0}"
            raise UserError(f"--set {text}: not readable as YAML; write for example {example}") from None
    return make_preset(_resolve_paths(values, Path.cwd()), "--set", base)


def changed_settings(base: Preset, preset: Preset) -> list[str]:
    """What `--set` needs to turn `base` into `preset`: the inverse of `apply_settings`."""
    changed = []
    for f in dataclasses.fields(preset):
        value = getattr(preset, f.name)
        if value != getattr(base, f.name):
            changed.append(f"{f.name}={to_text(value)}")
    return changed


def to_yaml(preset: Preset) -> str:
    """All settings under their headings, with their help as comments, ready to edit."""
    lines = []
    for f in dataclasses.fields(preset):
        if f.metadata["group"]:
            lines += ["", f"# {f.metadata['group']}"]
        text = _yaml_line(f.name, getattr(preset, f.name))
        is_one_line = "\n" not in text
        lines.append(f"{text}  # {f.metadata['help']}" if is_one_line else text)
    return "\n".join(lines).strip() + "\n"


def _yaml_line(name: str, value) -> str:
    if dataclasses.is_dataclass(value):
        return f"{name}: {to_text(value)}"
    return yaml.safe_dump({name: value}, allow_unicode=True, width=10**9).strip()


def _resolve_paths(values: dict, folder: Path) -> dict:
    """The values with relative paths taken from `folder`; what does not exist there stays, as a Hub id."""
    resolved = dict(values)
    for f in dataclasses.fields(Preset):
        value = values.get(f.name)
        if f.metadata["is_path"] and isinstance(value, str) and value:
            resolved[f.name] = paths.full_path(value, folder)
    return resolved


def is_path(name: str) -> bool:
    """Whether a setting names a file, a folder or something on the Hub."""
    return bool(Preset.__dataclass_fields__[name].metadata["is_path"])
