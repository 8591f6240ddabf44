"""The folder of a GGUF export: the files, and beside them what Ollama, llama.cpp and LM Studio need."""

import re
import shlex
from pathlib import Path

import gguf

from thinkswitch import evaluate
from thinkswitch.export.gguf_layout import context_length, sliding_window
from thinkswitch.export.gguf_tokenizer import find_rule
from thinkswitch.export.gguf_writer import GgufFile, plan_file
from thinkswitch.export.point import ExportPoint

MODELFILE = "Modelfile"


def plan_files(point: ExportPoint, folder: Path = Path()) -> list[GgufFile]:
    return [plan_file(point, kind, folder / file_name(point, kind)) for kind in point.gguf]


def model_name(point: ExportPoint) -> str:
    """Plain letters, since a preset may be called anything and this names files and models of Ollama."""
    plain = re.sub(r"[^0-9A-Za-z_-]+", "-", point.preset.name).strip("-") or "blend"
    return f"{plain}-round-{point.round.number}-t{point.t:g}"


def file_name(point: ExportPoint, quantisation: str) -> str:
    """As llama.cpp names files: the Hub and its users pick one by the end of its name."""
    size = gguf.size_label(point.pair.parameters, 0, 0, 0)
    return f"{gguf.naming_convention(model_name(point), None, None, None, size, quantisation)}.gguf"


def commands(point: ExportPoint, folder: str) -> str:
    """How to use the first file, a line each for Ollama, llama.cpp and LM Studio."""
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
    lines = [f"FROM ./{file_name(point, point.gguf[0])}"]
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
    found = []
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
    return found
