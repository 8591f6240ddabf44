"""ThinkSwitch Studio: the page. `python app.py`, or ./start.sh.

The page is up before torch is imported: the pair is opened in a thread, and the page says so.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import getproxies

import ui  # noqa: F401  # isort: skip - sets what Gradio and the Hub's library read when they are imported
from thinkswitch.errors import UserError  # isort: skip
from thinkswitch.proxies import refuse_unusable_proxies  # isort: skip

if __name__ == "__main__":  # Gradio would end in a traceback while it is imported
    try:
        refuse_unusable_proxies()
    except UserError as error:
        sys.exit(f"error: {error}")

import gradio as gr
import plotly
from gradio.components import Component
from starlette.responses import FileResponse
from starlette.routing import Route

from thinkswitch.preset import load_preset
from thinkswitch.recipe import Schedule
from thinkswitch.text import print_utf8
from ui import header, malloc, manual, security, session_state, settings_store
from ui.compare import screen_stream
from ui.compare import tab as compare
from ui.explore import tab as explore
from ui.export import tab as export
from ui.loop import tab as loop
from ui.models import tab as models
from ui.pulse import News, Pulse
from ui.studio import Studio
from ui.widgets import theme
from ui.widgets.assets import ASSETS
from ui.widgets.events import on

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
MAX_UPLOAD = "32mb"  # of a file of problems, deleted once it is read; a demo takes none
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
PAGES = 256  # of which Gradio keeps the state, open and closed ones: half a megabyte each
LEFT_UPLOADS = (3600, 3600)  # seconds between looks, and how old an upload that nobody read may become


def build(studio: Studio) -> gr.Blocks:
    """The whole page. It opens on Compare, where the slider is."""
    with gr.Blocks(title="ThinkSwitch Studio", analytics_enabled=False, delete_cache=LEFT_UPLOADS) as page:
        top = header.build(studio)  # above the tabs: it concerns all of them
        schedule = gr.State(Schedule())
        stored = settings_store.browser_state(studio.preset)
        tab: dict[str, dict] = {}
        with gr.Tabs(selected="compare", elem_id="tabs", overflow_behavior="wrap"):
            with gr.Tab("Models", id="models", elem_id="tab-models"):
                tab["Models"] = models.build(studio)
            with gr.Tab("Loop", id="loop", elem_id="tab-loop"):
                tab["Loop"] = loop.build(studio)
            with gr.Tab("Compare", id="compare", elem_id="tab-compare") as compare_tab:
                tab["Compare"] = compare.build(studio, schedule)
            with gr.Tab("Explore", id="explore", elem_id="tab-explore"):
                tab["Explore"] = explore.build(studio, schedule)
            with gr.Tab("Export", id="export", elem_id="tab-export") as export_tab:
                tab["Export"] = export.build(studio, schedule)
        tab["Compare"]["selected"](compare_tab.select)
        tab["Export"]["take"](export_tab.select, tab["Compare"])
        tab["Explore"]["connect_chips"]([tab[name]["schedule_chip"] for name in ("Compare", "Export")])
        taker = tab["Explore"]["connect_points"](tab["Compare"])
        taker.open(tab["Export"]["open"].click, tab["Export"]["exported_point"], [], "Compare")
        header.connect(studio, top, tab["Models"]["boxes"])
        Pulse(studio, top, tab).start()
        kept = [component for parts in tab.values() for component in parts["kept"]]
        open_with_stored_settings(page, studio, stored, kept, tab)
        page.unload(close_page(studio))
    return page


def close_page(studio: Studio) -> Callable[[gr.Request], None]:
    def close(request: gr.Request) -> None:
        studio.page_closed(str(request.session_hash))

    return close


def open_with_stored_settings(
    page: gr.Blocks, studio: Studio, stored: gr.BrowserState, kept: list[Component], tab: dict[str, dict]
) -> None:
    settings_store.keep(stored, kept)

    def restore(values: Any) -> Any:
        studio.loader.page_opened()
        return settings_store.restored(values, kept) or gr.skip()

    opened = on(page.load, restore, stored, kept)
    tab["Compare"]["opened"](opened.then)
    tab["Explore"]["restore"](opened.then)


# ---- the server


def main(argv: list[str] | None = None) -> int:
    print_utf8()
    args = parser().parse_args(argv)
    malloc.keep_small()
    session_state.keep_numbers()
    try:
        auth = security.credentials(args)
        security.check_proxy(args)
        preset = load_preset(args.preset)
        studio = Studio(preset, args.preset, args.demo)
        page = build(studio)
        studio.loader.load_soon()
        launch(page, studio, args, auth)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def reach_this_machine_directly() -> None:
    """Gradio asks its own page whether it is up, and a proxy cannot reach that: it ended in a traceback.

    Windows and macOS keep proxies outside of the environment; they count only while it names none.
    """
    proxies = getproxies()
    for name in ("no_proxy", "NO_PROXY") if proxies else ():
        named = [part.strip() for part in proxies.get("no", "").split(",") if part.strip()]
        os.environ[name] = ",".join(dict.fromkeys([*named, *LOCAL_NAMES]))
    for scheme in proxies.keys() & {"http", "https", "all"}:
        if f"{scheme}_proxy".upper() not in os.environ:
            os.environ.setdefault(f"{scheme}_proxy", proxies[scheme])


def launch(page: gr.Blocks, studio: Studio, args: argparse.Namespace, auth: tuple[str, str] | None) -> None:
    options = launch_options(args)
    options["app_kwargs"]["routes"] += [News(studio).route(), screen_stream.route(studio), *manual.routes()]
    reach_this_machine_directly()
    try:
        page.launch(**options, auth=auth)
    except OSError as error:  # Gradio found no free port
        raise UserError(f"{' '.join(str(error).split())}; name another --port") from error


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="app.py", description=str(__doc__).splitlines()[0])
    add: Callable[..., Any] = flags.add_argument
    add("--preset", default="tiny", help="a preset's name or YAML file (default: tiny, the embedded pair)")
    add("--host", default="127.0.0.1", help="address to listen on; anything but this machine needs --auth")
    add("--port", type=int, help="default: the first free one from 7860")
    add("--auth", metavar="USER:PASSWORD", help="ask visitors for this")
    add("--share", action="store_true", help="a public link through Gradio's tunnel; needs --auth")
    add("--allowed-host", metavar="NAME", action="append", default=[], help=ALLOWED_HOST_HELP)
    add("--root-path", metavar="PATH", default="", help=ROOT_PATH_HELP)
    add("--demo", action="store_true", help=DEMO_HELP)
    add("--open", action="store_true", help="open the page in the browser")
    return flags


ALLOWED_HOST_HELP = "a name under which a proxy passes requests on to this page; can be given several times"
ROOT_PATH_HELP = "where a proxy serves this page, if not at /; for example /studio"
DEMO_HELP = "for public demos: no file paths, no downloads, exports into one folder, short answers"


def launch_options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `launch`. Nothing is fetched from elsewhere, sent there, or kept in a history."""
    x11_or_wayland = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    has_display = sys.platform in ("darwin", "win32") or bool(x11_or_wayland)
    plotly_js = Route("/plotly.min.js", lambda request: FileResponse(PLOTLY))
    return {
        "server_name": args.host,
        "server_port": args.port,
        "share": args.share,
        "root_path": args.root_path.rstrip("/"),
        "inbrowser": args.open and has_display,
        "theme": theme.theme(),
        "css": theme.css(),
        "head": theme.head(),
        "favicon_path": str(ASSETS / "favicon.svg"),
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "state_session_capacity": PAGES,
        "ssr_mode": False,
        "max_file_size": "1kb" if args.demo else MAX_UPLOAD,
        "app_kwargs": {"routes": [plotly_js], "middleware": security.middleware(args)},
    }


if __name__ == "__main__":
    sys.exit(main())
