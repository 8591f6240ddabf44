"""Paths as a page shows them: short, without this machine's folders, and read back as what they were."""

import os
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "presets"  # what ships is named from here: presets/tiny/instruct


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


def full_path(value: str) -> str:
    """What `short_path` has shortened or somebody has typed: an absolute path if it exists, else as it is."""
    places = [value, os.path.expanduser(value)]
    if Path(value).parts[:1] == (SHIPPED.name,):
        places.append(str(SHIPPED.parent / value))
    found = next(filter(os.path.exists, places), None)
    if found is not None:
        return str(Path(found).resolve())
    base, adapter = parts_of(value)
    return f"{full_path(base)}+{full_path(adapter)}" if adapter else value


def parts_of(value: str) -> tuple[str, str]:
    """(base, adapter) of `base+adapter`; of anything else, a path with a plus included, the whole and ''."""
    base, _, adapter = value.partition("+")
    return (base, adapter) if base and adapter and not os.path.exists(value) else (value, "")


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
