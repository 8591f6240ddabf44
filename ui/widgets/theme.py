"""Colours, fonts and styles of the page."""

import gradio as gr

from thinkswitch.text import COLOURS
from ui.widgets.assets import asset

INSTRUCT, THINKING = COLOURS["instruct"], COLOURS["thinking"]
STYLES = ("studio", "header", "models", "loop", "compare", "explore", "export")  # the page, then its tabs
SCRIPTS = ("studio.js", "header.js", "pulse.js", "screen.js")
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # the system's: none is downloaded
MONO_FONTS = ["ui-monospace", "Consolas", "DejaVu Sans Mono", "monospace"]


def theme() -> gr.themes.Base:
    base = gr.themes.Soft(
        primary_hue="blue",
        secondary_hue="orange",
        neutral_hue="slate",
        font=FONTS,
        font_mono=MONO_FONTS,
        text_size="md",
        radius_size="md",
        spacing_size="sm",
    )
    return base.set(
        layout_gap="10px",
        block_padding="8px 10px",
        block_border_width="1px",
        block_title_padding="0",
        block_title_text_size="*text_sm",
        block_title_text_weight="500",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_color_dark="*body_text_color_subdued",
        block_label_background_fill="none",
        block_label_background_fill_dark="none",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_600",  # white on it is legible: 5.2 to 1
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_secondary_background_fill_hover_dark="*neutral_700",  # not blue, as if it were the primary one
        checkbox_border_color="*neutral_400",
        input_shadow="none",
        input_padding="7px 9px",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
    )


def css() -> str:
    colours = "".join(f" --{role}: {colour};" for role, colour in COLOURS.items())
    styles = "\n".join(asset(f"{name}.css") for name in STYLES)
    return f":root {{{colours} }}\n{styles}"


def head() -> str:
    """Scripts, each in a block of its own, so that their names do not meet."""
    blocks = "\n".join(f"{{\n{asset(name)}\n}}" for name in SCRIPTS)
    icon = '<link rel="icon" type="image/svg+xml" href="favicon.ico">'
    return f"{icon}\n<script>\n{blocks}\n</script>"


def blend_colour(t: float) -> str:
    """The colour of a blend: t of the way from instruct to thinking."""
    return f"color-mix(in oklab, {INSTRUCT} {100 * (1 - t):.0f}%, {THINKING})"
