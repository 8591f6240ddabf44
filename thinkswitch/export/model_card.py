"""What is exported, and the card that says so: README.md with lineage, recipe, scores and the figure of its verification."""

import json
from dataclasses import asdict
from pathlib import Path

import yaml

from thinkswitch import runs
from thinkswitch.export.point import ExportPoint
from thinkswitch.recipe import Schedule, module_kind
from thinkswitch.rounds import Round
from thinkswitch.text import format_accuracy
from thinkswitch.weights.checkpoint import Checkpoint, TensorInfo


def model_card(point: ExportPoint, name: str, run: Path | None, measured: list[dict], entries: dict[str, TensorInfo], figure: str) -> str:
    """README.md, with the front matter that the Hub reads. Names no path of this machine."""
    what = "A point between an instruct checkpoint (t = 0) and a thinking checkpoint (t = 1)"
    if point.adapter:
        what = f"All LoRA updates of the instruct checkpoint up to this round, as one adapter of rank {sum(point.ranks)}"
    return "\n".join([
        "---", yaml.safe_dump(front_matter(point), sort_keys=False, allow_unicode=True, width=10**9).strip(), "---", "",
        f"# {md_code(point.preset.name or 'ThinkSwitch')}, {point}", "",
        f"{what}, made by ThinkSwitch Studio (method: arXiv 2606.01080).", "",
        "```python", loading_snippet(f"./{name}"), "```", "",
        "## Lineage", "", *lineage(point, run), "",
        "## Recipe", "", *recipe_table(point, entries), "",
        "## Scores", "", *scores_table(point, measured), "",
        "## Verified", "", figure, ""])


def front_matter(point: ExportPoint) -> dict:
    sides = [point.pair.instruct] if point.adapter else [point.pair.instruct, point.pair.thinking]
    bases = list(dict.fromkeys(" ".join(side.name.split()) for side in sides if not is_local(side)))
    based = dict(base_model=bases, base_model_relation="adapter" if point.adapter else "merge") if bases else {}
    return dict(library_name="peft" if point.adapter else "transformers", pipeline_tag="text-generation", **based,
                tags=["lora" if point.adapter else "merge", "thinkswitch"])


def lineage(point: ExportPoint, run: Path | None) -> list[str]:
    knobs, uniform = point.preset, point.schedule == Schedule()
    rows = [("instruct", md_code(public_name(point.pair.instruct))), ("thinking", md_code(public_name(point.pair.thinking)))]
    rows += [("run", md_code(run.resolve().name))] if run else []
    rows += [("point", f"{point}" + ("" if uniform else f", t multiplied by {md_code(json.dumps(asdict(point.schedule)))}"))]
    if point.round.number:
        rows += [("each round", f"{knobs.prompts} prompts answered by {knobs.labels}, LoRA of rank {knobs.lora_rank}, "
                                f"then thinking rebuilt at t = {knobs.t:g} from the {knobs.anchor} anchor")]
    rows += [("tokenizer, chat template", f"{point.template}'s")]
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)]


def recipe_table(point: ExportPoint, entries: dict[str, TensorInfo]) -> list[str]:
    """Coefficients by module kind, from smallest to largest; recipe.json has all of them."""
    kinds: dict[str, list] = {}
    for name, coefficients in point.recipe.items():
        kinds.setdefault(module_kind(name), []).append(coefficients)
    lines = []
    for kind, rows in sorted(kinds.items()):
        columns = [[row[j] if j < len(row) else 0.0 for row in rows] for j in range(len(point.basis))]
        lines.append(f"| {kind} | {len(rows)} | {' | '.join(map(format_range, columns))} |")
    dtypes = ", ".join(sorted({e.dtype for e in entries.values()}))
    return [f"Each tensor is a sum of the following with these coefficients, rounded once to {dtypes}; `recipe.json` has them exactly.", "",
            f"| kind | tensors | {' | '.join(point.basis)} |", "|---" * (len(point.basis) + 2) + "|", *lines]


def as_mergekit(point: ExportPoint, entries: dict[str, TensorInfo]) -> str | None:
    """The same point as a mergekit configuration (slerp, whole tensors); None where updates take part, which it does not know.

    Filters match parts of names, the first that fits counts; depth is a gradient over the layers, as in our schedules (which
    leave the last norm out of it).
    """
    if point.adapter or point.round.number:
        return None
    kinds = dict(norm="norm", attention="self_attn", mlp="mlp")  # norms first: q_norm is in self_attn
    curve = lambda kind: [min(1.0, max(0.0, point.t * getattr(point.schedule, kind) * x)) for x in point.schedule.depth]
    values = [dict(filter=part, value=curve(kind) if len(point.schedule.depth) > 1 else curve(kind)[0]) for kind, part in kinds.items()]
    sides = [public_name(side) for side in (point.pair.instruct, point.pair.thinking)]
    layers = [0, point.pair.config.num_hidden_layers]
    dtype = dict(BF16="bfloat16", F16="float16", F32="float32")[next(iter(entries.values())).dtype]
    config = dict(slices=[dict(sources=[dict(model=side, layer_range=layers) for side in sides])], merge_method="slerp", base_model=sides[0],
                  parameters=dict(t=[*values, dict(value=min(1.0, point.t * point.schedule.embedding))]), dtype=dtype)
    # no tokenizer: naming one makes mergekit cut the embedding to its words (tried with 0.1.5)
    return yaml.safe_dump(config, sort_keys=False, width=10**9)


def format_range(values: list[float]) -> str:
    low, high = f"{min(values):.5g}", f"{max(values):.5g}"
    return low if low == high else f"{low} to {high}"


def measured_scores(run: Path | None, round: Round) -> list[dict]:
    """What a run has measured up to a round."""
    return [row for row in runs.measured(runs.read_lines(run / "events.jsonl")) if row["round"] <= round.number] if run else []


def scores_table(point: ExportPoint, measured: list[dict]) -> list[str]:
    if not measured:
        return ["Nothing was measured."]
    itself = point.recipe in (point.round.instruct, point.round.thinking)
    lines = [f"| {row['round']} | {row['checkpoint']} | {row['n']} | {format_accuracy(row)} | {row['think_rate']:.2f} | {row['mean_tokens']:.1f} |"
             for row in measured]
    warning = [] if itself else ["**These are the scores of the rounds' two checkpoints, not of this point, which was not measured.**", ""]
    return [*warning, "| round | checkpoint | n | accuracy [95 %] | think rate | mean tokens |", "|---|---|---|---|---|---|", *lines]


def loading_snippet(folder: str) -> str:
    """Works for an adapter, too: transformers finds its base in adapter_config.json."""
    return ("from transformers import AutoModelForCausalLM, AutoTokenizer\n"
            f"tokenizer = AutoTokenizer.from_pretrained({folder!r})\n"
            f"model = AutoModelForCausalLM.from_pretrained({folder!r}, dtype=\"auto\")")


def is_local(checkpoint: Checkpoint) -> bool:
    return checkpoint.folder == Path(checkpoint.name)  # a Hub id's folder is in the cache


def public_name(checkpoint: Checkpoint) -> str:
    """A Hub id whole; of a local folder the last two parts, which tell nothing of this machine."""
    if not is_local(checkpoint):
        return checkpoint.name
    path = checkpoint.folder.resolve()
    return "/".join(part for part in path.parts[-2:] if part != path.anchor)


def md_code(text: str) -> str:
    """A name as code, which no Markdown, HTML or table can leave."""
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split()).translate({ord("`"): "'", ord("|"): "/"})
    return f"`{text[:120] or ' '}`"
