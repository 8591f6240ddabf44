"""What a check found of a pair: what it is, what differs, what is odd, and the memory of every phase."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from thinkswitch.preset import Preset
from thinkswitch.text import format_bytes
from ui.widgets import html

if TYPE_CHECKING:
    from thinkswitch.memory_plan import Phase
    from thinkswitch.weights.pair import Pair

SHADES = 4  # of the parts of a bar


def report_html(preset: Preset) -> Markup:
    """From file headers: what the pair is, what is odd, what stops it; and its memory on this machine."""
    from thinkswitch.weights.pair import open_headers
    from thinkswitch.weights.pair_report import report_of
    from thinkswitch.weights.prompting import prompting_of

    pair = open_headers(preset.instruct, preset.thinking, prompting_of(preset))
    report = report_of(pair, preset)
    parts = [verdict_html(report.stops), differences_html(report.stops)]
    parts.append(
        section("What it is", html.facts([(what.capitalize(), value) for what, value in report.facts]))
    )
    if report.odd:
        parts.append(section("What is odd", listed(report.odd)))
    if not report.stops:
        parts.append(section("Memory on this machine", memory_html(pair, preset)))
    return Markup().join(parts)


def section(title: str, content: Markup) -> Markup:
    return Markup("<h4>{}</h4>{}").format(title, content)


def listed(lines: Sequence[str]) -> Markup:
    return Markup("<ul>{}</ul>").format(Markup().join(Markup("<li>{}</li>").format(line) for line in lines))


def verdict_html(found: Sequence[str]) -> Markup:
    if found:
        return Markup('<p class="verdict wrong">✗ Cannot be interpolated</p>')
    return Markup('<p class="verdict right">✓ The two are compatible</p>')


def differences_html(found: Sequence[str]) -> Markup:
    return section("What differs", listed(found)) if found else Markup()


def memory_html(pair: "Pair", preset: Preset) -> Markup:
    """The memory plan for this machine, a bar per phase."""
    from thinkswitch import memory_plan

    rows = Markup().join(map(memory_row, memory_plan.plan_memory(pair, preset)))
    return Markup('<div class="memory">{}</div>').format(rows)


def memory_row(phase: "Phase") -> Markup:
    """A bar as long as what is free, filled by what is needed; beyond its end if that is more."""
    parts = sorted(phase.parts.items(), key=lambda part: part[1], reverse=True)
    scale = max(phase.have, phase.needs, 1)
    segments = Markup().join(
        Markup('<i class="shade{}" style="width:{:.2f}%" title="{}"></i>').format(
            min(number, SHADES - 1), 100 * part / scale, f"{name}: {format_bytes(part)}"
        )
        for number, (name, part) in enumerate(parts)
    )
    sentence = f"✗ does not fit: {phase.advice}" if phase.advice else "✓ fits"
    return Markup(
        '<div class="phase{}"><b>{}</b><span class="bar" style="--free:{:.2f}%">{}</span><span>{}</span>'
        '<span class="fit">{}</span><span class="quiet parts">{}</span></div>'
    ).format(
        " over" if phase.advice else "",
        phase.name.capitalize(),
        100 * phase.have / scale,
        segments,
        f"{format_bytes(phase.needs)} of {format_bytes(phase.have)} free",
        sentence,
        largest(phase),
    )


def largest(phase: "Phase") -> str:
    """The three largest parts of a phase."""
    parts = sorted(phase.parts.items(), key=lambda part: part[1], reverse=True)
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in parts[:3])
