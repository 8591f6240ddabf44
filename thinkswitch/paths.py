"""Paths and Hub ids: as people paste them; and short, as a page shows them."""

import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

SHIPPED = Path(__file__).parents[1] / "presets"  # what ships is named from here: presets/tiny/instruct
QUOTES = ("''", '""', "``", "“”", "‘’", "«»", "<>")
HUB = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://", re.I)
CONFIGS = ("config.json", "adapter_config.json", "generation_config.json", "model.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
WEIGHTS = (".safetensors",)
RUN_FILES = ("preset.yaml", "run.json", "events.jsonl", "log.txt")
VIEWS = ("tree", "blob", "resolve", "raw", "commit", "edit")  # pages of a repository: followed by a revision


# ---- as people paste them


def pasted(text: str) -> str:
    """What somebody means who pastes a path, an address or an id: a path that exists, or a Hub id.

    Quotes, `~`, variables, file:// and huggingface.co addresses, escaped spaces, backslashes, slashes at the
    end, and a file of a checkpoint in the place of its folder are read as they are meant; other text stays.
    """
    found = unquoted(text)
    if HUB.match(found):
        return hub_id(found)
    found = from_file_address(found)
    found = next((path for path in spellings(found) if exists(path)), found)
    return whole_folder(without_slash(found))


def pasted_target(text: str) -> Path:
    """A path that is to be written, so it need not exist."""
    return Path(os.path.expanduser(from_file_address(unquoted(text))))


def pasted_folder(text: str) -> Path:
    """The folder of a run, which somebody may have named by one of its files."""
    path = Path(pasted(text))
    return path.parent if path.name in RUN_FILES and path.is_file() else path


def unquoted(text: str) -> str:
    found = text.strip()
    while len(found) > 1 and found[0] + found[-1] in QUOTES and found[0] not in found[1:-1]:  # not 'a'+'b'
        found = found[1:-1].strip()
    return found


def from_file_address(text: str) -> str:
    if not text.lower().startswith("file:"):
        return text
    address = urlsplit(text)
    drive = f"/{address.netloc}" if address.netloc.endswith(":") else ""  # file://C:/models
    return url2pathname(drive + address.path)


def spellings(text: str) -> list[str]:
    """A text as it is, and as a shell or Windows would read it."""
    escaped = [unescaped(text), text.replace("\\", "/")] if "\\" in text else []
    at_home = [os.path.expanduser(spelling) for spelling in (text, *escaped)]
    return [text, *at_home, *map(os.path.expandvars, at_home)]


def unescaped(text: str) -> str:
    r"""`my\ models` of a terminal is `my models`."""
    try:
        return " ".join(shlex.split(text))
    except ValueError:
        return text


def without_slash(text: str) -> str:
    return text.rstrip("/\\") if len(text) > 1 and not re.fullmatch(r"[A-Za-z]:[/\\]+|/+", text) else text


def whole_folder(text: str) -> str:
    """The folder or repository whose file was named; of a folder of the Hub's cache, its snapshot."""
    path = Path(text)
    if path.name in CONFIGS + TOKENIZER or path.name.endswith(WEIGHTS):
        siblings = any((path.parent / name).is_file() for name in CONFIGS[:2]) if exists(text) else False
        if siblings or (not exists(text) and re.fullmatch(r"[\w.-]+/[\w.-]+/[\w.-]+", text)):
            return str(path.parent) if siblings else text.rpartition("/")[0]
    if path.name.startswith("models--") and (path / "refs" / "main").is_file():
        commit = (path / "refs" / "main").read_text(encoding="utf-8").strip()
        return str(path / "snapshots" / commit)
    return text


def hub_id(address: str) -> str:
    """`owner/name`, `@revision` if it is not main; of a data set with `/config` and `:split`, if named."""
    path = unquote(HUB.sub("", address).partition("?")[0].partition("#")[0]).strip("/")
    parts = [part for part in path.split("/") if part]
    is_data = parts[:1] == ["datasets"]
    name, rest = parts[is_data : is_data + 2], parts[is_data + 2 :]
    if len(name) < 2 or parts[:1] == ["spaces"]:
        return address
    if is_data and rest[:1] == ["viewer"]:
        config, split = (*rest[1:3], "", "")[:2]
        named = "/".join([*name, *([config] if config not in ("", "default") else [])])
        return f"{named}:{split}" if split else named
    revision = rest[1] if len(rest) > 1 and rest[0] in VIEWS else "main"
    if is_data and (len(rest) > 2 or revision != "main"):
        return address  # one file or revision of a data set, which is less than the set
    return "/".join(name) + (f"@{revision}" if revision != "main" else "")


def exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a NUL character
        return False


# ---- short, and back


def short_path(value: str) -> str:
    """An absolute path from the current folder, from what ships or from home; other text as it is."""
    base, adapter = parts_of(value)
    if adapter:
        return f"{short_path(base)}+{short_path(adapter)}"
    path = Path(value)
    if not path.is_absolute():
        return value
    candidates = [below(path, Path.cwd()), below(path, SHIPPED, SHIPPED.name), below(path, Path.home(), "~")]
    candidates.append(from_here(path))
    return next((short for short in candidates if short and full_path(short) == full_path(value)), value)


def full_path(value: str, folder: Path | None = None) -> str:
    """What `short_path` has shortened or somebody has pasted: an absolute path if it exists, else an id.

    A relative path starts at `folder`, or where this process is.
    """
    named = pasted(value)
    places = [named] if folder is None else [os.path.join(folder, named)]
    if Path(named).parts[:1] == (SHIPPED.name,):
        places.append(str(SHIPPED.parent / named))
    found = next(filter(exists, places), None)
    if found is not None and named:
        return str(Path(whole_folder(found)).resolve())
    base, adapter = parts_of(unquoted(value))
    return f"{full_path(base, folder)}+{full_path(adapter, folder)}" if adapter else named


def parts_of(value: str) -> tuple[str, str]:
    """(base, adapter) of `base+adapter`; of anything else, a path with a plus included, the whole and ''."""
    base, _, adapter = value.partition("+")
    return (base, adapter) if base and adapter and not exists(value) else (value, "")


def below(path: Path, folder: Path, name: str = "") -> str:
    """The path from `folder`, which is called `name`; empty if it lies elsewhere."""
    if path == folder or not path.is_relative_to(folder):
        return ""
    return (Path(name) / path.relative_to(folder)).as_posix()


def from_here(path: Path) -> str:
    """With as many `..` as it takes; empty on another drive of Windows."""
    try:
        return Path(os.path.relpath(path)).as_posix()
    except ValueError:
        return ""
