"""What a check found of a pair: what it is, what differs, what is odd, and the memory of every phase."""

from collections.abc import Iterator
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
    """From file headers: what the pair is and what differs; and what memory it needs on this machine."""
    from thinkswitch.weights.pair import differences, open_headers
    from thinkswitch.weights.prompting import prompting_of

    pair = open_headers(preset.instruct, preset.thinking, prompting_of(preset))
    found = differences(pair)
    facts = [("Architecture", architecture(pair)), ("Size", size(pair)), ("Templates", templates_html(pair))]
    parts = [verdict_html(found), differences_html(found), section("What it is", html.facts(facts))]
    odd = list(oddities(pair))
    if odd:
        parts.append(section("What is odd", listed(odd)))
    if not found:
        parts.append(section("Memory on this machine", memory_html(pair, preset)))
    return Markup().join(parts)


def section(title: str, content: Markup) -> Markup:
    return Markup("<h4>{}</h4>{}").format(title, content)


def listed(lines: list[str]) -> Markup:
    return Markup("<ul>{}</ul>").format(Markup().join(Markup("<li>{}</li>").format(line) for line in lines))


def verdict_html(found: list[str]) -> Markup:
    if found:
        return Markup('<p class="verdict wrong">✗ Cannot be interpolated</p>')
    return Markup('<p class="verdict right">✓ The two are compatible</p>')


def differences_html(found: list[str]) -> Markup:
    return section("What differs", listed(found)) if found else Markup()


def oddities(pair: "Pair") -> Iterator[str]:
    """What does not keep a pair from being used, and yet should be known."""
    from thinkswitch.weights.pair import about_same_weights

    if pair.same_weights:
        yield about_same_weights(pair)
    elif pair.instruct.template_opens_think:
        yield "the template of the instruct checkpoint opens the trace: are the two the wrong way round?"
    yield from pair.remarks
    if pair.instruct.vision or pair.thinking.vision:
        yield "vision is left out: the text model alone is used"


def architecture(pair: "Pair") -> str:
    config = pair.config
    embeddings = "tied" if config.tie_word_embeddings else "untied"
    return (
        f"{config.model_type}, {config.num_hidden_layers} layers, hidden {config.hidden_size}, "
        f"vocabulary {config.vocab_size:,}, {embeddings} embeddings"
    )


def size(pair: "Pair") -> str:
    entries = [entry for side in (pair.instruct, pair.thinking) for entry in side.entries.values()]
    dtypes = ", ".join(sorted({entry.dtype for entry in entries}))
    return f"{pair.parameters:,} parameters in {len(pair.names)} tensors each ({dtypes})"


def templates_html(pair: "Pair") -> Markup:
    """Whether each template opens the trace itself."""
    lines = []
    for role, side in (("instruct", pair.instruct), ("thinking", pair.thinking)):
        verb = "opens" if side.template_opens_think else "does not open"
        tag = side.think_tags.open
        lines.append(Markup('<b class="{}">{}</b> {} the trace ({})').format(role, role, verb, tag))
    return Markup(" · ").join(lines)


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
