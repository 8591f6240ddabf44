"""What is known of a preset before anything is read of its checkpoints: from the comment at its head.

The Hub is not asked: a list of twenty presets would read forty configs.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from thinkswitch import json_text
from thinkswitch.preset import Preset, load_preset, preset_file

CARD = re.compile(r"Card: NVIDIA with (\d+) GB")
COMPARE = re.compile(r"Compare at full length needs (\d+) GB")
MEMORY = re.compile(r"Card: none needed; memory: (\d+) GB")
DOWNLOAD = re.compile(r"Download: ([\d.]+ [MG]B)|Disk: (2 x \d+ GB)")
TASK = re.compile(r"Task: ([^.\n]+)\.|\bon ([A-Z][\w-]*(?: \d+)?)\.")
REFUSED = "preset is refused"
OF_A_CARD = 0.95  # what is free of a card, at most: docs/pairs.md counts with it
INDEX, ONE_FILE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True)
class Machine:
    """What a pair has to fit into, in bytes. `gpu`: of the card; None where there is none."""

    memory: float
    gpu: float | None = None


@dataclass(frozen=True)
class Entry:
    """A preset in a list. Sizes in GB; None: not stated."""

    name: str
    pair: str
    task: str
    download: str  # empty: none, or not stated
    card: int | None = None
    compare: int | None = None  # the card on which Compare has room for answers of full length
    memory: int | None = None  # where no card is needed
    refused: bool = False  # its architecture is not supported yet

    @property
    def needs(self) -> str:
        if self.card:
            return f"{self.card} GB card"
        return f"{self.memory} GB memory" if self.memory else ""


def entry(source: str) -> Entry:
    """Of a preset's name or file."""
    head = head_of(preset_file(source).read_text(encoding="utf-8"))
    preset = load_preset(source)
    return Entry(
        name=preset.name or Path(source).stem,
        pair=f"{short_name(preset.instruct)} / {short_name(preset.thinking)}",
        task=first_group(TASK, head) or short_name(preset.held_out_set).partition(":")[0],
        download=first_group(DOWNLOAD, head).replace(" x ", " × "),
        card=number(CARD, head),
        compare=number(COMPARE, head),
        memory=number(MEMORY, head),
        refused=REFUSED in head,
    )


def head_of(text: str) -> str:
    """The comment that a file begins with, as one paragraph."""
    lines = text.splitlines()
    comments = lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return " ".join(line.lstrip("# ") for line in comments)


def first_group(pattern: re.Pattern, text: str) -> str:
    found = pattern.search(text)
    return next(filter(None, found.groups()), "") if found else ""


def number(pattern: re.Pattern, text: str) -> int | None:
    found = pattern.search(text)
    return int(found[1]) if found else None


def short_name(name: str) -> str:
    """Without its owner or the folders before it; a folder called instruct or thinking says little alone."""
    path = Path(name)
    return "/".join(path.parts[-2:]) if path.is_absolute() else path.name


# ---- this machine


def fit(found: Entry, machine: Machine) -> tuple[bool | None, str]:
    """(whether it fits, why) from what the preset states; None where it states nothing."""
    if found.refused:
        return False, "not supported yet"
    if found.card:
        return fits_card(found.card, found.compare, machine.gpu)
    if found.memory:
        fits = found.memory * 1e9 <= machine.memory
        return fits, "fits" if fits else f"needs {found.memory} GB of memory"
    return None, "Check plans its memory"


def fits_card(card: int, compare: int | None, gpu: float | None) -> tuple[bool, str]:
    if gpu is None:
        return False, "no NVIDIA card"
    if gpu < OF_A_CARD * card * 1e9:
        return False, f"needs {card} GB, the card has {gpu / 1e9:.0f} GB"
    if compare and gpu < OF_A_CARD * compare * 1e9:
        return True, "fits, with shorter answers in Compare"
    return True, "fits"


def is_here(preset: Preset) -> bool:
    """Whether all weights of a preset's pair are on this machine, in folders or in the Hub's cache."""
    return all(weights_are_here(name) for name in (preset.instruct, preset.thinking))


def weights_are_here(name: str) -> bool:
    if Path(name).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repo, _, revision = name.partition("@")

    def cached(file: str) -> str | None:
        path = try_to_load_from_cache(repo, file, revision=revision or None)
        return path if isinstance(path, str) else None

    try:
        index = cached(INDEX)
        if index is None:
            return cached(ONE_FILE) is not None
    except HFValidationError:  # neither a folder nor a Hub id
        return False
    try:
        files = set(json_text.read(Path(index))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # a damaged index
        return False
    return all(cached(file) for file in files)
