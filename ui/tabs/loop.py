"""Loop: start, stop and resume runs, and watch them. The run's folder is all this page reads."""

import shlex
import time
from functools import lru_cache
from html import escape
from pathlib import Path

import gradio as gr

from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.text import format_seconds
from thinkswitch.think_parser import parse_response
from ui.studio import Studio
from ui.widgets import charts, form, html
from ui.widgets.components import Chart, LogBox, MessageBox

ROWS = 200  # samples shown at once
TAIL = 12_000  # characters of the log
LIST = ["round", "no.", "prompt", "answer", "kept?", "tokens"]


def build(studio: Studio) -> dict:
    quiet = dict(show_progress="hidden", api_visibility="private", concurrency_limit=None)
    knobs = form.build(studio.preset, studio.demo)
    with gr.Row():
        start = gr.Button("Start", variant="primary", elem_id="loop-start")
        stop = gr.Button("Stop", elem_id="loop-stop", interactive=False)
        resume = gr.Button("Resume", elem_id="loop-resume", interactive=False)
    with gr.Row(equal_height=True):
        run = gr.Dropdown(studio.board()[1], value=newest(), label="Run", elem_id="loop-run", allow_custom_value=True, scale=2, min_width=300)
        with gr.Column(scale=3):
            progress = MessageBox(html.quiet("Start runs the loop with the knobs above. It is a process of its own: closing this page does not harm it."), elem_id="loop-progress")
    with gr.Row():
        with gr.Column(min_width=320):
            loss = Chart(elem_id="loop-loss", description="Loss by step, rounds told apart", height=300, hint="Loss by step: comes with the first distillation")
        with gr.Column(min_width=320):
            accuracy = Chart(elem_id="loop-accuracy", description="Accuracy by round of both checkpoints", height=300, hint="Accuracy by round: comes with the first measurement")
        with gr.Column(min_width=320):
            tokens = Chart(elem_id="loop-tokens", description="Mean tokens and think rate by round", height=300, hint="Tokens and think rate: come with the first measurement")
    with gr.Accordion("Samples: what was thought, kept and dropped", open=False, elem_id="loop-samples-box"):
        with gr.Row():
            which = gr.Dropdown([], label="Round", allow_custom_value=True, elem_id="loop-samples-round")
            only = gr.Radio(["all", "kept", "dropped"], value="all", label="Show", elem_id="loop-samples-only")
        table = gr.Dataframe(headers=LIST, datatype=["number", "str", "str", "str", "str", "number"], type="array", interactive=False, elem_id="loop-samples",
                             wrap=False, max_height=320, column_widths=["8%", "8%", "42%", "16%", "16%", "10%"], show_label=False)
        detail = MessageBox(elem_id="loop-sample", elem_classes=["sample"])
    with gr.Accordion("Log and command", open=False, elem_id="loop-log-box", visible=not studio.demo):  # they name paths
        command = gr.Code("", language="shell", label="The command", elem_id="loop-command", interactive=False)
        log = LogBox(elem_id="loop-log")
    seen = gr.State(None)
    timer = gr.Timer(1.0, active=False)
    view = [progress, loss, accuracy, tokens, which, stop, resume, command, log, seen]

    def do_start(*values):
        try:
            preset = form.read(studio.preset, dict(zip(knobs, values)))
            folder, _ = studio.start(preset)
        except UserError as error:
            return gr.skip(), html.toast(UserError(studio.public(str(error)))), gr.skip()
        return gr.update(choices=studio.board()[1], value=folder.name), html.quiet("Starting …"), None

    def do_stop(name):
        try:
            runs.request_stop(folder_of(name))
        except UserError as error:
            return html.toast(error)
        return html.quiet("Stopping at the next step …")

    def do_resume(name):
        try:
            studio.resume(folder_of(name))
        except UserError as error:
            return html.toast(error), gr.skip()
        return html.quiet("Resuming …"), None

    def tick(name, last):
        return refresh(studio, name, last)

    def show_samples(name, number, which):
        try:
            return samples(folder_of(name), number, which), ""
        except UserError:
            return [], ""

    def show_one(name, event: gr.SelectData):
        studio.imported.wait(300)
        try:
            return inspect(folder_of(name), int(event.row_value[0]), str(event.row_value[1]))
        except UserError as error:
            return html.toast(error)

    start.click(do_start, list(knobs.values()), [run, progress, seen], **quiet).then(tick, [run, seen], view, **quiet)
    stop.click(do_stop, run, progress, **quiet)
    resume.click(do_resume, run, [progress, seen], **quiet).then(tick, [run, seen], view, **quiet)
    timer.tick(tick, [run, seen], view, **quiet)
    run.input(lambda name: refresh(studio, name, None), run, view, **quiet).then(show_samples, [run, which, only], [table, detail], **quiet)
    for choice in (which, only):
        choice.change(show_samples, [run, which, only], [table, detail], **quiet)
    table.select(show_one, run, detail, **quiet)

    return dict(kept=list(knobs.values()), run=run, knobs=knobs, timer=timer)


def refilled(studio: Studio, names) -> list:
    """The form, as another preset has it."""
    return [form.shown(getattr(studio.preset, name)) for name in names]


def newest() -> str | None:
    found = runs.runs_in(runs.ROOT)
    return found[0].name if found else None


def folder_of(name: str | None) -> Path:
    """Only a listed run: the text comes from outside."""
    found = next((f for f in runs.runs_in(runs.ROOT) if f.name == name), None)
    if found is None:
        raise UserError(f"there is no run {name!r}; start one, or choose another" if name else "no run is chosen; start one")
    return found


def refresh(studio: Studio, name: str | None, last) -> tuple:
    """Everything that has changed since `last`; skips what has not, so an idle page costs nothing."""
    none = (gr.skip(),) * 10
    if not name:
        return none
    try:
        folder = folder_of(name)
        events, state = studio.events(folder), runs.state(folder)
    except UserError as error:
        idle = gr.update(interactive=False)
        return html.error(studio.public(str(error))), "", "", "", gr.skip(), idle, idle, *none[7:]
    measured, steps = runs.measured(events), sum(e["phase"] == "distil" for e in events)
    now = (name, len(events), steps, len(measured), state)
    if now == last and state != "running":
        return none
    changed = lambda *at: last is None or last[0] != name or any(last[i] != now[i] for i in at)
    busy = studio.running()
    buttons = (gr.skip(),) * 2
    if changed(0, 4):
        buttons = gr.update(interactive=state == "running"), gr.update(interactive=busy is None and state not in ("done", "running", "refused"))
    finished = [str(n) for n in range(1, 1 + max((e["round"] for e in events), default=0)) if (runs.round_dir(folder, n) / "samples.jsonl").is_file()]
    return (progress_html(folder, state, events, studio.public), charts.loss(events) if changed(0, 2) else gr.skip(),
            charts.accuracy(measured) if changed(0, 3) else gr.skip(), charts.tokens(measured) if changed(0, 3) else gr.skip(),
            gr.update(choices=finished, value=finished[-1] if finished else None) if changed(0, 3, 4) else gr.skip(),
            *buttons, command_of(folder) if changed(0, 4) else gr.skip(), tail(folder) if changed(1, 4) else gr.skip(), now)


def progress_html(folder: Path, state: str, events: list[dict], public=str) -> str:
    """Phase, how far, how long still, what it has cost. `public` takes paths out of what others have written."""
    if state == "refused":
        return html.error(public(f"{folder.name} did not start: {last_line(folder)}"))
    preset, info = opened(folder, (folder / "preset.yaml").stat().st_mtime) if (folder / "preset.yaml").is_file() else None, runs.read_info(folder)
    if preset is None or not events:
        return f"<b>{escape(folder.name)}</b>: starting; torch is being imported …"
    event, seconds = events[-1], info.get("seconds", 0.0) + (max(0.0, time.time() - info["heartbeat"]) if state == "running" else 0.0)
    if state == "error":
        return str(html.error(public(f"{folder.name}: {event.get('message', 'failed')}"))) + f'<br><span class="quiet">{bill(preset, info, seconds)}. Resume goes on from the last good step.</span>'
    share = done_share(preset.rounds, events)
    left = remaining(preset.rounds, events)
    head = {"running": f"round {event['round']} of {preset.rounds} · {event['phase']} {event['step']:,}/{event['total']:,}", "done": "done",
            "stopped": f"stopped in round {event['round']}; Resume goes on", "interrupted": f"was interrupted in round {event['round']} ({event['phase']}); Resume goes on"}.get(state, state)
    detail = [f"loss {event['loss']:.3f}"] if "loss" in event else []
    detail += [f"{event['checkpoint']} {100 * event['accuracy']:.1f} % so far"] if event["phase"] == "measure" and "accuracy" in event else []
    detail += [f"{event['tokens_per_s']:,.0f} tokens/s"] if "tokens_per_s" in event else []
    detail += [f"{event['writing']:,} tokens into the answers at hand"] if "writing" in event else []
    if state == "running":
        detail.append(left)
    return (f"<b>{escape(folder.name)}</b>: {head}" + (" · " + " · ".join(detail) if detail else "") + str(html.progress_bar(1 if state == "done" else share, 1))
            + f'<span class="quiet">{bill(preset, info, seconds)}{kept(events)}</span>')


@lru_cache(maxsize=64)
def opened(folder: Path, changed: float):
    return runs.open_run(folder)


def bill(preset, info: dict, seconds: float) -> str:
    """Time, and money: by the hour where that has a price, else by energy, as the card tells or as `watts` says."""
    text = f"{format_seconds(seconds)} of work"
    kwh = info.get("joules", 0.0) / 3.6e6 or preset.watts * seconds / 3.6e6
    if kwh:
        text += f", {kwh:.3g} kWh" + (" (read from the card)" if info.get("joules") else "")
    if preset.price_per_hour:
        return text + f", cost {preset.price_per_hour * seconds / 3600:.3f}"
    return text + (f", cost {kwh * preset.price_per_kwh:.4f}" if kwh else ", cost: set watts or price per hour")


def kept(events: list[dict]) -> str:
    strips = [e for e in events if e["phase"] == "strip"]
    if not strips:
        return ""
    e = strips[-1]
    dropped = ", ".join(f"{n} {escape(why)}" for why, n in e["dropped"].items())
    return f" · round {e['round']}: kept {e['kept']:,} of {e['total']:,}" + (f", dropped {dropped}" if dropped else "")


def done_share(rounds: int, events: list[dict]) -> float:
    """Of the whole run, counting rounds; within one, phases by a third (think, distil, measure)."""
    e = events[-1]
    within = e["step"] / e["total"] if e["total"] else 0
    third = {"think": 0, "strip": 1, "distil": 1, "rebuild": 2, "measure": 2}.get(e["phase"], 0)
    if e["phase"] == "measure":
        within = within / 2 + 0.5 * (e.get("checkpoint") == "thinking")
    number = e["round"]
    return max(0.0, (number - 1 + (third + within) / 3) / rounds) if number else 0.0


def remaining(rounds: int, events: list[dict]) -> str:
    """How long still: a finished round tells how long the others take; before that, only the phase's end is known."""
    ends = {e["round"]: e["time"] for e in runs.measured(events) if e["checkpoint"] == "thinking"}
    now, number = events[-1], events[-1]["round"]
    whole = [ends[n] - ends[n - 1] for n in ends if n and n - 1 in ends]
    if whole:
        each = sum(whole) / len(whole)
        spent = now["time"] - ends.get(number - 1, now["time"])
        return f"about {format_seconds(max(0.0, each * (rounds - number + 1) - spent))} left"
    phase = [e for e in events if e["round"] == number and e["phase"] == now["phase"] and e.get("checkpoint") == now.get("checkpoint")]
    took, steps = now["time"] - phase[0]["time"], now["step"] - phase[0]["step"]
    if steps <= 0 or not now["total"]:
        return "time left: known after the first round"
    return f"this phase: {format_seconds(took / steps * (now['total'] - now['step']))} left; the whole is known after round 1"


def command_of(folder: Path) -> str:
    """As its process was started; a run that a terminal started is told by its preset."""
    started = runs.read_info(folder).get("command")
    return shlex.join(started) if started else f"./start.sh run {shlex.quote(str(folder / 'preset.yaml'))}"


def tail(folder: Path) -> str:
    path = folder / "log.txt"
    if not path.is_file():
        return "started from a terminal: its log is there"
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read().decode("utf-8", "replace")


def last_line(folder: Path) -> str:
    lines = [line for line in tail(folder).splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "its process ended without a word"


def samples(folder: Path, number, which: str) -> list[list]:
    """Rows of the table: the last ROWS of a round, dropped ones first when all are shown."""
    rows = []
    for line in runs.read_lines(runs.round_dir(folder, int(number or 0)) / "samples.jsonl"):
        verdict = "kept" if line.get("kept") else line.get("why") or "not stripped yet"
        if which == "all" or (which == "kept") == (verdict == "kept"):
            answer = line["answer"] if "answer" in line else parse_response(line["text"], line["prefilled"]).answer
            rows.append([int(number), f"{line['prompt_index']}.{line['sample']}", short(line["prompt"], 120), short(answer, 60), verdict, line["tokens"]])
    return sorted(rows, key=lambda row: row[4] == "kept")[:ROWS]


def short(text: str, n: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= n else text[: n - 1] + "…"


def inspect(folder: Path, number: int, key: str) -> str:
    """One sample: the raw text, what is left of it, and what the loss sees, token by token."""
    lines = runs.read_lines(runs.round_dir(folder, number) / "samples.jsonl")
    line = next((s for s in lines if f"{s['prompt_index']}.{s['sample']}" == key), None)
    if line is None:
        raise UserError(f"sample {key} of round {number} is not there any more")
    from thinkswitch.distil import make_example
    parts = parse_response(line["text"], line["prefilled"])
    instruct = checkpoint(runs.open_run(folder).instruct)
    seen, decode = make_example(instruct, line["prompt"], parts.answer), instruct.tokenizer.decode
    token = lambda kind: lambda i: f'<span class="token {kind}">{escape(decode([i]))}</span>'
    loss = "".join(map(token("masked"), seen.prompt)) + "".join(map(token("learnt"), seen.answer))
    raw = ("<think>" if line["prefilled"] else "") + line["text"]
    verdict = "kept" if line.get("kept") else f"dropped: {line['why']}" if line.get("why") else "not stripped yet"
    return (f"<b>Prompt</b><pre>{escape(line['prompt'])}</pre><b>Raw response</b>, {line['tokens']} tokens<pre>{escape(raw)}</pre>"
            f"<b>Stripped answer</b>, {escape(verdict)}<pre>{escape(parts.answer) or '(nothing)'}</pre>"
            f'<b>What the loss sees</b>: grey is masked, coloured is learnt<pre>{loss}</pre>')


@lru_cache(maxsize=4)
def checkpoint(name: str):
    from thinkswitch.weights.checkpoint import open_checkpoint
    return open_checkpoint(name, headers_only=True)
