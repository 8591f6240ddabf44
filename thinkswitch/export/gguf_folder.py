"""The folder of a GGUF export: the files, and beside them what Ollama, llama.cpp and LM Studio need."""

import re
import shlex
from pathlib import Path

import gguf

from thinkswitch import evaluate
from thinkswitch.export.gguf_families import context_length, sliding_window
from thinkswitch.export.gguf_kinds import LORAS
from thinkswitch.export.gguf_lora import SCALES, TYPES, is_straight
from thinkswitch.export.gguf_rope import rope_of
from thinkswitch.export.gguf_tokenizer import find_rule
from thinkswitch.export.gguf_writer import GgufFile, plan_file
from thinkswitch.export.point import ExportPoint

MODELFILE = "Modelfile"


def plan_files(point: ExportPoint, folder: Path = Path()) -> list[GgufFile]:
    """Files with all weights, or none."""
    return [plan_file(point, kind, folder / file_name(point, kind)) for kind in point.whole_kinds]


def plan_lora_file(point: ExportPoint, folder: Path = Path()) -> GgufFile | None:
    return plan_file(point, point.lora, folder / file_name(point, point.lora)) if point.lora else None


def model_name(point: ExportPoint) -> str:
    """Plain letters, since a preset may be called anything and this names files and models of Ollama."""
    return named(point, point.round.number, point.t)


def base_name(point: ExportPoint) -> str:
    """Of what a LoRA is added to, see `ExportPoint.origin`."""
    return named(point, point.round.number if point.t else 0, 0)


def named(point: ExportPoint, number: int, t: float) -> str:
    plain = re.sub(r"[^0-9A-Za-z_-]+", "-", point.preset.name).strip("-") or "blend"
    return f"{plain}-round-{number}-t{t:g}"


def file_name(point: ExportPoint, kind: str) -> str:
    """As llama.cpp names files: the Hub and its users pick one by the end of its name."""
    size = gguf.size_label(point.pair.parameters, 0, 0, 0)
    if kind in LORAS:
        parts = gguf.naming_convention(model_name(point), None, None, None, size, TYPES[kind].name, "LoRA")
    else:
        name = base_name(point) if point.lora else model_name(point)
        parts = gguf.naming_convention(name, None, None, None, size, kind)
    return f"{parts}.gguf"


def commands(point: ExportPoint, folder: str) -> str:
    """How to use the first file, a line each for Ollama, llama.cpp and LM Studio."""
    if point.lora:
        return lora_commands(point, folder)
    file = shlex.quote(f"{folder}/{file_name(point, point.gguf[0])}")
    modelfile = shlex.quote(f"{folder}/{MODELFILE}")
    name = model_name(point).lower()
    return "\n".join(
        [
            f"ollama create {name} -f {modelfile} && ollama run {name}",
            f"llama-server -m {file} --jinja",
            f"lms import {file}   # LM Studio",
        ]
    )


def lora_commands(point: ExportPoint, folder: str) -> str:
    """llama.cpp at five scales, then one for a server that runs, then Ollama.

    In the folder, since llama.cpp ends a LoRA's path at the first colon or comma.
    """
    base, lora, name = file_name(point, point.whole_kinds[0]), file_name(point, point.lora), model_name(point)
    servers = [
        f"llama-server -m {base} --lora-scaled {lora}:{scale:g} --jinja   # {scale_meaning(point, scale)}"
        for scale in SCALES
    ]
    return "\n".join(
        [
            f"cd {shlex.quote(folder)}",
            *servers,
            "# a server whose scale is moved while it runs must not reuse what it has read at another scale:",
            f"llama-server -m {base} --lora {lora} --no-cache-prompt --jinja",
            "curl http://127.0.0.1:8080/lora-adapters -H 'Content-Type: application/json' "
            """-d '[{"id": 0, "scale": 0.6}]'""",
            "# Ollama has no scale, it adds the whole LoRA:",
            f"ollama create {name.lower()} -f {MODELFILE} && ollama run {name.lower()}",
        ]
    )


def scale_meaning(point: ExportPoint, scale: float) -> str:
    if point.t:
        return f"t = {scale * point.t:g}"
    return f"{100 * scale:g} % of what the rounds have changed"


def write_modelfile(folder: Path, point: ExportPoint) -> None:
    (folder / MODELFILE).write_text(modelfile(point), encoding="utf-8")


def modelfile(point: ExportPoint) -> str:
    """For `ollama create`: the first file, the side's sampling and system prompt, the end of its turns."""
    source = point.template_source
    sampling = evaluate.sampling(point.preset, "instruct" if point.t == 0 else "thinking", greedy=False)
    values: dict[str, object] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
    }
    lines = [f"FROM ./{file_name(point, point.whole_kinds[0])}"]
    if point.lora:
        lines.append("# the whole LoRA, since Ollama has no scale for one")
        lines.append(f"ADAPTER ./{file_name(point, point.lora)}")
    lines += [f"PARAMETER {name} {value:g}" for name, value in values.items()]
    lines += [f'PARAMETER stop "{text}"' for text in stop_texts(point)]
    if source.prompting.system:
        lines.append(f'SYSTEM """{source.prompting.system.replace(chr(34) * 3, "")}"""')
    return "\n".join(lines) + "\n"


def stop_texts(point: ExportPoint) -> list[str]:
    tokenizer = point.template_source.tokenizer
    texts = tokenizer.convert_ids_to_tokens(sorted(point.template_source.stop_token_ids))
    return [text for text in texts if '"' not in text]


def remarks(point: ExportPoint) -> list[str]:
    """What somebody who uses the files should know."""
    found = lora_remarks(point)
    rule = find_rule(point.template_source)
    if not rule.exact:
        found.append(
            f"llama.cpp has no rule that splits text exactly as this tokenizer does; under its {rule.name} "
            "prompts are the same tokens, and some rare text is not"
        )
    window = sliding_window(point.pair.config)
    if window:
        found.append(
            f"the checkpoint attends to the last {window} tokens, which llama.cpp does not for this family; "
            f"so the files say that {context_length(point.pair.config)} tokens are the most"
        )
    rope = rope_of(point.pair.config)
    if rope["rope_type"] == "longrope":
        found.append(
            "llama.cpp reads every prompt with the rotary frequencies of long texts once its context (-c) is "
            f"longer than {rope['original_max_position_embeddings']} tokens; the studio reads short ones "
            "with those of short texts"
        )
    return found


def lora_remarks(point: ExportPoint) -> list[str]:
    if not point.lora:
        return []
    start = f"round {point.round.number}'s instruct checkpoint" if point.t else "the instruct checkpoint"
    found = [
        f"the file with all weights is {start}; with the LoRA at scale 1 it is this point. Ollama has no "
        "scale for a LoRA and adds the whole of it"
    ]
    if point.t and not is_straight(point):
        found.append(
            "a scale goes straight from one end to the other, and the studio's slider does not, on SLERP's "
            "arc or by a schedule that ends early; so between the ends the two are close, but not the same"
        )
    return found
