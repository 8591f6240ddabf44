"""The formats of an export, what each would take, and why one cannot be had at a point."""

from dataclasses import dataclass, replace

from thinkswitch.errors import UserError
from thinkswitch.export.export import export_bytes, validate_point
from thinkswitch.export.point import ExportPoint


@dataclass(frozen=True)
class Format:
    """A form in which a point can be written."""

    name: str
    about: str  # one line
    adapter: bool = False  # as ExportPoint has them
    gguf: tuple[str, ...] = ()


@dataclass(frozen=True)
class Offer:
    """A format at one point: its size, or the reason why it cannot be had."""

    format: Format
    size: int = 0  # bytes
    reason: str = ""


def by_name(*formats: Format) -> dict[str, Format]:
    return {format_.name: format_ for format_ in formats}


FORMATS = by_name(
    Format(
        "Hugging Face folder",
        "The whole checkpoint as safetensors, with tokenizer, chat template and model card.",
    ),
    Format(
        "PEFT adapter",
        "What the rounds have changed, as LoRA matrices for the instruct checkpoint.",
        adapter=True,
    ),
    Format(
        "GGUF Q8_0",
        "A file for llama.cpp, Ollama and LM Studio, in 8 bits: hard to tell from 16.",
        gguf=("Q8_0",),
    ),
    Format("GGUF Q4_K_M", "The same in about 5 bits: the usual choice for chatting.", gguf=("Q4_K_M",)),
    Format("GGUF BF16", "The same in 16 bits, to be quantised by other tools.", gguf=("BF16",)),
    Format(
        "GGUF LORA",
        "Base and LoRA for llama.cpp: the LoRA's scale is the slider, from instruct to this point.",
        gguf=("LORA",),
    ),
)


def in_format(point: ExportPoint, format_: Format) -> ExportPoint:
    return replace(point, adapter=format_.adapter, gguf=format_.gguf)


def offers(point: ExportPoint) -> list[Offer]:
    """Every format at this point. Changes nothing."""
    return [offer(in_format(point, format_), format_) for format_ in FORMATS.values()]


def offer(point: ExportPoint, format_: Format) -> Offer:
    try:
        validate_point(point)
        size = export_bytes(point)
    except UserError as error:
        return Offer(format_, reason=str(error))
    return Offer(format_, size)
