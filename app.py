"""ThinkSwitch Studio: the page. `python app.py`, or ./start.sh.

The page is up before torch is imported: the pair is opened in a thread, and the page says so.
"""

import argparse
import ipaddress
import os
import socket
import sys
from pathlib import Path

import gradio as gr
import plotly
import psutil
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse
from starlette.routing import Route

from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset
from thinkswitch.recipe import Schedule
from ui.studio import PAIR, Studio
from ui.tabs import compare, explore, export, loop, models
from ui.widgets import theme
from ui.widgets.components import MessageBox

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def build(studio: Studio) -> gr.Blocks:
    """The whole page. Opens on Compare, where the slider is."""
    quiet = dict(show_progress="hidden", api_visibility="private", concurrency_limit=None)
    with gr.Blocks(title="ThinkSwitch Studio", analytics_enabled=False) as page:
        gr.HTML('<div id="masthead"><h1>ThinkSwitch Studio</h1><p>Two checkpoints, one slider: from instinct to deliberation, '
                'and a loop that teaches the one what the other works out.</p></div>')
        status = MessageBox(models.status_html(studio), elem_id="models-status")  # above the tabs: it concerns all of them
        schedule = gr.State(Schedule())
        kept = gr.BrowserState(None, storage_key=f"thinkswitch-{studio.preset.name}-1", secret="thinkswitch")
        with gr.Tabs(selected="compare", elem_id="tabs", overflow_behavior="wrap") as tabs:
            with gr.Tab("Models", id="models", elem_id="tab-models"):
                of_models = models.build(studio)
            with gr.Tab("Loop", id="loop", elem_id="tab-loop"):
                of_loop = loop.build(studio)
            with gr.Tab("Compare", id="compare", elem_id="tab-compare"):
                of_compare = compare.build(studio, schedule)
            with gr.Tab("Explore", id="explore", elem_id="tab-explore"):
                of_explore = explore.build(studio, schedule)
            with gr.Tab("Export", id="export", elem_id="tab-export") as export_tab:
                of_export = export.build(studio, schedule)

        of_export["take"](export_tab.select, of_compare)
        watched = {"Loop": of_loop["timer"], "Explore": of_explore["timer"], "Export": of_export["timer"]}

        def only_what_is_seen(event: gr.SelectData):
            return [gr.Timer(active=event.value == name) for name in watched]

        tabs.select(only_what_is_seen, None, list(watched.values()), **quiet)
        rounds = [of["round"] for of in (of_compare, of_explore, of_export)]
        news, pulse = gr.State(None), gr.Timer(1.0)
        pulse.tick(lambda last, *chosen: beat(studio, last, chosen, list(of_loop["knobs"])), [news, *rounds], [status, of_compare["chips"], *rounds, of_loop["run"], *of_loop["knobs"].values(), news], **quiet)
        remember(page, kept, [c for of in (of_models, of_compare, of_loop, of_explore, of_export) for c in of["kept"]], studio, of_compare["opened"], of_explore["restore"])

        def left(request: gr.Request):
            studio.left(request.session_hash)

        page.unload(left)
    return page


def remember(page: gr.Blocks, kept: gr.BrowserState, values: list, studio: Studio, *then) -> None:
    """What a visitor has set survives a reload: it stays in the browser."""
    gr.on([value.change for value in values], None, values, kept, js="(...all) => [all]", api_visibility="private")

    def restore(stored):
        studio.page_opened()
        return stored if isinstance(stored, list) and len(stored) == len(values) else [gr.skip()] * len(values)

    loaded = page.load(restore, kept, values, show_progress="hidden", api_visibility="private", concurrency_limit=None)
    for action in then:
        action(loaded.then)


def beat(studio: Studio, last, chosen: tuple[str, ...], knobs: list[str]) -> tuple:
    """What every page hears: how loading goes, new rounds and runs, another preset. A round that is gone gives way to the pair."""
    (choices, listing), preset = studio.board(), studio.preset
    now = (models.status_html(studio), choices, listing, preset)
    changed = lambda i: last is None or last[i] != now[i]
    rounds = [gr.update(choices=choices, **({} if value in choices else dict(value=PAIR))) if changed(1) else gr.skip() for value in chosen]
    other_preset = preset != (last[3] if last else studio.first_preset)
    return (now[0] if changed(0) else gr.skip(), gr.Dataset(samples=[[p.prompt] for p in studio.examples]) if other_preset else gr.skip(),
            *rounds, gr.update(choices=listing, value=loop.newest()) if last is None else gr.update(choices=listing) if changed(2) else gr.skip(),
            *(loop.refilled(studio, knobs) if other_preset else [gr.skip()] * len(knobs)), now)


# ---- the server


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        auth = guarded(args)
        preset = load_preset(args.preset)
        studio = Studio(preset, args.preset, args.demo)
        page = build(studio)
        studio.open_soon()
        page.launch(**options(args), auth=auth)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # Gradio found no free port
        print(f"error: {' '.join(str(error).split())}; name another --port", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="app.py", description=__doc__.splitlines()[0])
    flags.add_argument("--preset", default="tiny", help="a preset's name or YAML file (default: tiny, the embedded pair)")
    flags.add_argument("--host", default="127.0.0.1", help="address to listen on; anything but this machine needs --auth")
    flags.add_argument("--port", type=int, help="default: the first free one from 7860")
    flags.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for this")
    flags.add_argument("--share", action="store_true", help="a public link through Gradio's tunnel; needs --auth")
    flags.add_argument("--demo", action="store_true", help="for a stage: no paths, no Hub, exports into one folder, short answers")
    flags.add_argument("--open", action="store_true", help="open the page in the browser")
    return flags


def guarded(args) -> tuple[str, str] | None:
    """The user and password; refuses to be reached from elsewhere without them, since the page can write files."""
    user, colon, password = (args.auth or "").partition(":")
    if args.auth and not (user and colon and password):
        raise UserError("--auth wants USER:PASSWORD, both not empty")
    if not args.auth and (args.share or not loopback(args.host)):
        raise UserError(f"{'--share' if args.share else '--host ' + args.host} lets others reach this page, which starts programs and writes files; "
                        "add --auth USER:PASSWORD")
    return (user, password) if args.auth else None


def loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts(args) -> list[str]:
    """The names by which this page may be called. A foreign one means DNS rebinding: another site's script speaks."""
    names = ["127.0.0.1", "localhost", "[::1]", "::1"]
    if not loopback(args.host):
        names += [args.host, socket.gethostname(), f"{socket.gethostname()}.local"]
        names += [a.address for addresses in psutil.net_if_addrs().values() for a in addresses if a.family == socket.AF_INET]
    return names + (["*.gradio.live"] if args.share else [])


def options(args) -> dict:
    """For launch(): nothing is fetched, told or kept elsewhere."""
    display = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return dict(server_name=args.host, server_port=args.port, share=args.share, inbrowser=bool(args.open and display), quiet=False,
                theme=theme.theme(), css=theme.css(), head=theme.head(), footer_links=[], run_history=False,
                enable_monitoring=False, ssr_mode=False, show_error=False, app_kwargs=dict(routes=[Route("/plotly.min.js", lambda request: FileResponse(PLOTLY))],
                                middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts(args), www_redirect=False)]))


if __name__ == "__main__":
    sys.exit(main())
