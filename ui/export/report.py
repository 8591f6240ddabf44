"""What an export does and has done, in words; and the formats as cards."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from markupsafe import Markup

from thinkswitch.text import format_bytes
from ui.export.exporting import Outlook
from ui.scheduling import BackgroundTask
from ui.widgets import html

if TYPE_CHECKING:
    from thinkswitch.export.export import Exported
    from thinkswitch.export.formats import Offer

STAGES = {"write": "Writing", "verify": "Reading it back and comparing"}
INTRODUCTION = (
    "An export is written to a temporary folder, read back and compared with the live model. "
    "Then it is moved into place."
)


def cards(offers: "Iterable[Offer]", chosen: str) -> dict:
    """The value of FormatCards."""
    return {"chosen": chosen, "cards": [card(offer) for offer in offers]}


def card(offer: "Offer") -> dict:
    size = format_bytes(offer.size) if not offer.reason else ""
    reason = f"{offer.reason[:1].upper()}{offer.reason[1:]}." if offer.reason else ""
    return {"name": offer.format.name, "about": offer.format.about, "size": size, "reason": reason}


def outlook_html(outlook: Outlook) -> Markup:
    if outlook.refused:
        return html.error(outlook.text)
    return Markup("{}").format(outlook.text) if outlook.possible else html.quiet(outlook.text)


def progress_html(task: BackgroundTask) -> Markup:
    return html.quiet(f"{STAGES.get(task.stage, 'Starting')} …") + html.progress_bar(task.done, task.total)


def result_html(done: "Exported", folder: str) -> Markup:
    """`folder` as this visitor may read it."""
    written = Markup("<b>Exported</b> to <code>{}</code>: {} in {} files, {:.1f} s.").format(
        folder, format_bytes(done.size), done.files, done.seconds
    )
    return Markup("{}<br>{}").format(written, done.verified)
