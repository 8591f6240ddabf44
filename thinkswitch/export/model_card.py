"""README.md of an export: how to load it, lineage, recipe, scores, and what the verification found.

Names and the contents of run folders come from outside: they are escaped. No path of this machine is named.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path

import yaml

from thinkswitch import __version__, runs
from thinkswitch.export.gguf_folder import commands, remarks
from thinkswitch.export.point import ExportPoint, ExportRequest, is_local, public_name
from thinkswitch.recipe import Coefficients, Schedule, module_kind
from thinkswitch.rounds import Round
from thinkswitch.text import format_accuracy
from thinkswitch.weights.hub import repo_of
from thinkswitch.weights.pair_report import report_of

LONGEST_SYSTEM = 4000  # characters of a system prompt that are quoted
LONGEST_REMARK = 400


def model_card(
    request: ExportRequest,
    measured: list[dict],
    stored_as: str,
    verification: str,
) -> str:
    """The whole text. `measured`: as from `measured_scores`; `stored_as`: the types of the weights."""
    point = request.point
    code = usage(point, f"./{request.out.name}", named_base(point))
    sections = [
        f"---\n{front_matter(point)}---",
        f"# {md_code(point.preset.name or 'ThinkSwitch')}, {point}",
        introduction(point),
        f"```{'sh' if point.gguf else 'python'}\n{code}\n```",
        *base_note(point),
        *prompting_note(point),
        *(f"Note: {md_text(remark, LONGEST_REMARK)}." for remark in report_of(point.pair).odd),
        *gguf_notes(point),
        *vision_note(point),
        "## Lineage",
        lineage_table(point, request.run),
        "## Recipe",
        recipe_note(point, stored_as),
        recipe_table(point),
        "## Scores",
        *scores(point, measured),
        "## Verified",
        verification,
    ]
    return "\n\n".join(sections) + "\n"


def front_matter(point: ExportPoint) -> str:
    """YAML that the Hub reads. Only Hub ids are named as base models."""
    parents = [point.pair.instruct]
    if not point.adapter:
        parents.append(point.pair.thinking)
    hub_ids = [" ".join(repo_of(parent.name).split()) for parent in parents if not is_local(parent)]
    facts: dict = {
        "library_name": library(point),
        "pipeline_tag": "text-generation",
    }
    licences = {licence_of(parent.folder) for parent in parents}
    if len(licences) == 1 and "" not in licences:
        facts["license"] = licences.pop()
    if hub_ids:
        facts["base_model"] = list(dict.fromkeys(hub_ids))
        facts["base_model_relation"] = "adapter" if point.adapter else "merge"
    form = "lora" if point.adapter or point.lora else "merge"
    facts["tags"] = [*(["gguf"] if point.gguf else []), form, "thinkswitch"]
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=10**9)


def licence_of(folder: Path) -> str:
    """What the model card of a checkpoint says, in the Hub's words; empty if it says nothing."""
    try:
        text = (folder / "README.md").read_text("utf-8")
        _, header, _ = text.split("---", 2)
        said = yaml.safe_load(header)["license"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""
    return said if isinstance(said, str) else ""


def library(point: ExportPoint) -> str:
    if point.gguf:
        return "gguf"
    return "peft" if point.adapter else "transformers"


def introduction(point: ExportPoint) -> str:
    if point.adapter and point.t:
        what = (
            "A point between an instruct checkpoint (t = 0) and a thinking checkpoint (t = 1), as one LoRA "
            f"adapter of rank {sum(point.ranks)} on the instruct checkpoint"
        )
    elif point.adapter:
        what = (
            "All LoRA updates of the instruct checkpoint up to this round, as one adapter of rank "
            f"{sum(point.ranks)}"
        )
    elif point.lora:
        what = (
            f"A base and a LoRA of rank {sum(point.ranks)}, whose scale leads from the base to a point "
            "between an instruct checkpoint (t = 0) and a thinking checkpoint (t = 1)"
        )
    else:
        what = "A point between an instruct checkpoint (t = 0) and a thinking checkpoint (t = 1)"
    return f"{what}, made by ThinkSwitch Studio {__version__} (method: arXiv 2606.01080)."


def named_base(point: ExportPoint) -> str:
    """What stands for an adapter's base where that is a folder; empty if libraries find it by its Hub id."""
    if not point.adapter or not is_local(point.pair.instruct):
        return ""
    return f"path/to/{point.pair.instruct.folder.resolve().name}"


def base_note(point: ExportPoint) -> list[str]:
    """A warning where an adapter's base is a folder, which libraries cannot find by themselves."""
    if not named_base(point):
        return []
    name = md_code(public_name(point.pair.instruct))
    return [
        f"**The base checkpoint, {name}, was a folder of the machine that made this adapter.** Name "
        "the folder where you have it, as above. Before you publish the adapter, write the base's "
        "Hub id into `base_model_name_or_path` in `adapter_config.json`."
    ]


def prompting_note(point: ExportPoint) -> list[str]:
    """What its sides were asked with, beyond a chat template as it came: it behaves otherwise without."""
    sides = {"instruct": point.pair.instruct, "thinking": point.pair.thinking}
    lines = []
    for role, side in sides.items():
        if side.prompting.system:
            lines.append(f"- {role}: system prompt {md_code(side.prompting.system, LONGEST_SYSTEM)}")
        if side.prompting.template_args:
            lines.append(f"- {role}: arguments of the chat template {md_code(side.prompting.template_args)}")
    return ["\n".join(["Measured with, and to be used with:", "", *lines])] if lines else []


def gguf_notes(point: ExportPoint) -> list[str]:
    return [f"Note: {remark}." for remark in remarks(point)] if point.gguf else []


def vision_note(point: ExportPoint) -> list[str]:
    if not point.pair.instruct.vision:
        return []
    return ["This is the text model of checkpoints that also see images; their vision was left out."]


def usage(point: ExportPoint, folder: str, base: str) -> str:
    """A few lines that use the export: of a shell for GGUF, else of Python."""
    return commands(point, folder) if point.gguf else loading_snippet(folder, base)


def loading_snippet(folder: str, base: str = "") -> str:
    """Lines of Python. They load an adapter, too: on `base`, or on the Hub id in adapter_config.json."""
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f"tokenizer = AutoTokenizer.from_pretrained({folder!r})",
        f'model = AutoModelForCausalLM.from_pretrained({(base or folder)!r}, dtype="auto")',
    ]
    return "\n".join([*lines, f"model.load_adapter({folder!r})"] if base else lines)


def lineage_table(point: ExportPoint, run: Path | None) -> str:
    where = str(point)
    if point.schedule != Schedule():
        where += f", t multiplied by {md_code(json.dumps(asdict(point.schedule)))}"
    rows = [
        ["instruct", md_code(public_name(point.pair.instruct))],
        ["thinking", md_code(public_name(point.pair.thinking))],
        ["point", where],
        ["tokenizer, chat template", f"{point.template}'s"],
    ]
    if point.round.number:
        preset = point.preset
        each_round = (
            f"{preset.prompts} prompts answered by {preset.labels}, LoRA of rank {preset.lora_rank}, "
            f"then thinking rebuilt at t = {preset.t:g} from the {preset.anchor} anchor"
        )
        rows.insert(3, ["each round", each_round])
    if run:
        rows.insert(2, ["run", md_code(run.resolve().name)])
    return md_table(["", ""], rows)


def recipe_note(point: ExportPoint, stored_as: str) -> str:
    where = "With the LoRA at scale 1 each" if point.lora else "Each"
    rounded = f"the base rounded to {stored_as}" if point.lora else f"rounded to {stored_as}"
    return (
        f"{where} tensor is a sum of the following with these coefficients, {rounded}; `recipe.json` has "
        "them exactly."
    )


def recipe_table(point: ExportPoint) -> str:
    """The range of the coefficients in each module kind."""
    kinds: dict[str, list[Coefficients]] = {}
    for name, coefficients in point.recipe.items():
        padded = tuple(coefficients) + (0.0,) * (len(point.basis) - len(coefficients))
        kinds.setdefault(module_kind(name), []).append(padded)
    rows = [
        [kind, str(len(tensors)), *(format_range(column) for column in zip(*tensors, strict=True))]
        for kind, tensors in sorted(kinds.items())
    ]
    return md_table(["kind", "tensors", *point.basis], rows)


def format_range(values: tuple[float, ...]) -> str:
    low, high = f"{min(values):.5g}", f"{max(values):.5g}"
    return low if low == high else f"{low} to {high}"


def measured_scores(run: Path | None, state: Round) -> list[dict]:
    """The summaries that a run has measured up to a round, both checkpoints of each."""
    if run is None:
        return []
    events = runs.read_events(run)
    return [row for row in runs.measured(events) if row["round"] <= state.number]


def scores(point: ExportPoint, measured: list[dict]) -> list[str]:
    """The table, with a warning unless the point is one of the checkpoints that were measured."""
    if not measured:
        return ["Nothing was measured."]
    rows = [
        [
            md_text(row["round"]),
            md_text(row["checkpoint"]),
            md_text(row["n"]),
            format_accuracy(row),
            f"{row['think_rate']:.2f}",
            f"{row['mean_tokens']:.1f}",
        ]
        for row in measured
    ]
    table = md_table(["round", "checkpoint", "n", "accuracy [95 %]", "think rate", "mean tokens"], rows)
    if point.recipe in (point.round.instruct, point.round.thinking):
        return [table]
    warning = (
        "**These are the scores of the rounds' two checkpoints, not of this point, which was not measured.**"
    )
    return [warning, table]


# ---- Markdown


def md_table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def md_code(text: str, longest: int = 120) -> str:
    """A name as code that no Markdown, HTML or table can end: one line, no backticks, no bars."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    line = line.replace("`", "'").replace("|", "/")
    return f"`{line[:longest] or ' '}`"


def md_text(value: object, longest: int = 120) -> str:
    """A value as plain text: one line, with a backslash before what Markdown or HTML would take as markup."""
    line = " ".join(str(value).split())[:longest]
    return re.sub(r"([^\w\s.,:;%+-]|_)", r"\\\1", line)
