"""Writes docs/settings.md from the fields of Preset: python dev/settings_table.py"""

import dataclasses
from pathlib import Path

from thinkswitch.preset import Preset

TARGET = Path(__file__).parents[1] / "docs" / "settings.md"
INTRO = """# Settings

Written by `python dev/settings_table.py` from `thinkswitch/preset.py`. A preset file holds what differs from
these defaults; `--set key=value` changes one for a run; the page shows them on the Loop tab.
"""


def shown(default) -> str:
    if default is None:
        return "auto"
    if default == "":
        return "–"
    if dataclasses.is_dataclass(default):
        return "all 1"
    if isinstance(default, bool):
        return str(default).lower()
    return f"`{default}`"


def limits(metadata) -> str:
    if metadata["choices"]:
        return " Choices: " + ", ".join(metadata["choices"]) + "."
    if metadata["low"] is not None:
        return f" From {metadata['low']:,} to {metadata['high']:,}."
    return ""


def table() -> str:
    lines = [INTRO]
    for field in dataclasses.fields(Preset):
        if field.metadata["group"]:
            lines += [f"\n## {field.metadata['group']}\n", "| setting | default | meaning |", "|---|---|---|"]
        meaning = field.metadata["help"] + limits(field.metadata)
        lines.append(f"| `{field.name}` | {shown(field.default)} | {meaning.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(table(), encoding="utf-8")
