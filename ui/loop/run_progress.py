"""How far a run is, from its folder: one message for the Loop tab."""

import time
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

from markupsafe import Markup

from thinkswitch import runs
from thinkswitch.preset import Preset
from thinkswitch.text import format_accuracy, format_seconds
from ui.widgets import html

LOG_CHARACTERS = 12_000  # of the end of log.txt
PAUSE_SECONDS = 2 * runs.HEARTBEAT_SECONDS  # a shorter gap between two events is never taken for a pause
THIRDS = {"think": 0, "strip": 1, "distil": 1, "rebuild": 2, "measure": 2}  # of a round, by phase
FINAL = ("done", "stopped", "error")
CLEAR_P = 0.05  # a smaller p is called a change (exact McNemar test on the same problems)
IMPORTING = "torch is being imported …"


def progress_html(folder: Path, state: str, events: list[dict], public: Callable[[str], str] = str) -> Markup:
    """Phase, how far, how long still, and what it has cost. `public` takes paths out of a demo's messages."""
    if state == "refused":
        return html.error(public(f"{folder.name} did not start: {last_line(folder)}"))
    preset = preset_of(folder)
    if state == "new":
        return titled(folder, "did not begin; press Resume to begin")
    if preset is None or not events:
        return titled(folder, f"starting; {IMPORTING}")
    info = runs.read_info(folder)
    resuming = state == "running" and is_of_earlier_process(events[-1], info)
    if state == "running" and not resuming and events[-1]["phase"] in FINAL:
        state = events[-1]["phase"]  # its process is about to end
    seconds = worked_seconds(info, counting=state == "running" and not resuming)
    costs = bill(preset, info, seconds)
    working = last_work(events)
    if state == "error":
        message = public(f"{folder.name}: {events[-1].get('message', 'failed')}")
        advice = html.quiet(f"{costs}. Resume continues from the last completed step.")
        return Markup("{}<br>{}").format(html.error(message), advice)
    if resuming:
        text = f"resuming {where(working)}; {IMPORTING}"
    else:
        first = headline(state, preset.rounds, working)
        text = " · ".join([first, *details(state, preset, events, seconds)])
        text += " · stopping at the next step" if state == "running" and runs.stop_requested(folder) else ""
    share = 1.0 if state == "done" else done_share(preset.rounds, working)
    footer = html.quiet(" · ".join([costs, *kept(events)]))
    return titled(folder, text) + html.progress_bar(share, 1) + footer


def titled(folder: Path, text: str) -> Markup:
    return Markup("<b>{}</b>: {}").format(folder.name, text)


def preset_of(folder: Path) -> Preset | None:
    path = folder / "preset.yaml"
    return _read_preset(folder, path.stat().st_mtime_ns) if path.is_file() else None


@lru_cache(maxsize=64)
def _read_preset(folder: Path, modified: int) -> Preset:
    return runs.open_run(folder)


def is_of_earlier_process(event: dict, info: dict) -> bool:
    """Whether the process that runs now has written nothing yet: the run is being resumed."""
    return event["time"] < info.get("started", 0.0)


def worked_seconds(info: dict, counting: bool) -> float:
    """Seconds of work so far; while the run is `counting`, those since its last heartbeat are added."""
    seconds = info.get("seconds", 0.0)
    if not counting:
        return seconds
    since = time.time() - info.get(
        "heartbeat", time.time()
    )  # of another process: only the wall clock is common
    return seconds + min(max(0.0, since), PAUSE_SECONDS)


def last_work(events: list[dict]) -> dict:
    """The last event of the work itself: "stopped" says nothing of how far that is."""
    return next((event for event in reversed(events) if event["phase"] not in FINAL), events[-1])


def where(event: dict) -> str:
    return f"in round {event['round']}" if event["round"] else "before round 1"


def headline(state: str, rounds: int, event: dict) -> str:
    if state == "running":
        return f"round {event['round']} of {rounds} · {doing(event)}"
    if state in ("stopped", "interrupted"):
        activity = "" if event["phase"] in FINAL else f" ({doing(event)})"
        return f"{state} {where(event)}{activity}; press Resume to continue"
    return state


def doing(event: dict) -> str:
    """The phase, of which checkpoint, and how far: `measure instruct 120/400`."""
    words = [event["phase"], event.get("checkpoint", ""), f"{event['step']:,}/{event['total']:,}"]
    return " ".join(filter(None, words))


def details(state: str, preset: Preset, events: list[dict], seconds: float) -> list[str]:
    event = events[-1]
    found = []
    if "loss" in event:
        found.append(f"loss {event['loss']:.3f}")
    if event["phase"] == "measure" and "accuracy" in event:
        found.append(f"{event['checkpoint']} {100 * event['accuracy']:.1f} % so far")
    if "starting" in event:
        found.append(event["starting"])
    if "tokens_per_s" in event:
        found.append(f"{event['tokens_per_s']:,.0f} tokens/s")
    if "writing" in event:
        found.append(f"{event['writing']:,} tokens generated in this batch")
    if state == "running":
        found.append(time_left(preset.rounds, events, seconds))
    return found


def bill(preset: Preset, info: dict, seconds: float) -> str:
    """Time and money: by the hour where that has a price, else by energy, measured or from `watts`.

    Where neither is known, nothing is said of money: "set watts or price per hour" read like an order.
    """
    parts = [f"{format_seconds(seconds)} of work"]
    measured = info.get("joules", 0.0) / 3.6e6
    kwh = measured or preset.watts * seconds / 3.6e6
    if kwh:
        parts.append(f"{kwh:.3g} kWh" + (" (read from the GPU)" if measured else ""))
    if preset.price_per_hour:
        parts.append(f"cost {preset.price_per_hour * seconds / 3600:.3f}")
    elif kwh:
        parts.append(f"cost {kwh * preset.price_per_kwh:.4f}")
    return ", ".join(parts)


def kept(events: list[dict]) -> list[str]:
    """What the last strip kept and dropped; nothing before the first one."""
    last = next((event for event in reversed(events) if event["phase"] == "strip"), None)
    if last is None:
        return []
    dropped = ", ".join(f"{count} {reason}" for reason, count in last["dropped"].items())
    text = f"round {last['round']}: kept {last['kept']:,} of {last['total']:,}"
    return [f"{text}, dropped {dropped}" if dropped else text]


def scores_html(measured: list[dict]) -> Markup:
    """The last score of each checkpoint, and in words what has changed on the same problems since round 0."""
    last = {event["checkpoint"]: event for event in measured}
    lines = [_score_line(role, last[role]) for role in ("instruct", "thinking") if role in last]
    return Markup("<br>").join(lines)


def _score_line(role: str, event: dict) -> Markup:
    head = Markup('<b class="{}">{}</b> round {}: {}').format(
        role, role, event["round"], format_accuracy(event)
    )
    change = event.get("since_start")
    if not change:
        return head
    gained, lost, p = change["gained"], change["lost"], change["p"]
    verdict = "no clear change"
    if p < CLEAR_P:
        verdict = "better" if gained > lost else "worse"
    text = f", +{gained} −{lost} against round 0, p = {p:.1g}: {verdict}"
    return head + text


def done_share(rounds: int, event: dict) -> float:
    """Share of the run that is done: rounds count alike, and so do thinking, distilling and measuring."""
    if not event["round"]:
        return 0.0
    within = event["step"] / event["total"] if event["total"] else 0.0
    if event["phase"] == "measure":  # instruct first, then thinking
        within = within / 2 + (0.5 if event.get("checkpoint") == "thinking" else 0.0)
    thirds = THIRDS.get(event["phase"], 0) + within
    return max(0.0, (event["round"] - 1 + thirds / 3) / rounds)


def time_left(rounds: int, events: list[dict], seconds: float) -> str:
    """From the rounds that are done; before the first one only the end of this phase can be estimated."""
    at = working_times(events, seconds)
    ends = {e["round"]: t for e, t in zip(events, at, strict=True) if _ends_round(e)}
    took = [ends[n] - ends[n - 1] for n in ends if n and n - 1 in ends]
    number = events[-1]["round"]
    if took:
        spent = at[-1] - ends.get(number - 1, at[-1])
        left = sum(took) / len(took) * (rounds - number + 1) - spent
        return f"about {format_seconds(left)} left"
    return _phase_left(events, at)


def _phase_left(events: list[dict], at: list[float]) -> str:
    now = events[-1]
    key = (now["round"], now["phase"], now.get("checkpoint"))
    first = next(i for i, e in enumerate(events) if (e["round"], e["phase"], e.get("checkpoint")) == key)
    steps = now["step"] - events[first]["step"]
    if steps <= 0 or not now["total"]:
        return "time left is known after round 1"
    left = (at[-1] - at[first]) / steps * (now["total"] - now["step"])
    return f"{format_seconds(left)} left in this phase; the rest is known after round 1"


def _ends_round(event: dict) -> bool:
    measured = event["phase"] == "measure" and event["step"] == event["total"]
    return measured and event["checkpoint"] == "thinking"


def working_times(events: list[dict], seconds: float) -> list[float]:
    """Seconds of work between the first event and each one, without the pauses between stop and resume.

    A gap after a stop is a pause. Those after a kill are known by `seconds`, what the run has worked by its
    own clock: if its events span more, their longest gaps were pauses. A gap alone proves nothing, since a
    step of a large pair, or loading it, may take minutes.
    """
    gaps = [max(0.0, after["time"] - before["time"]) for before, after in pairwise(events)]
    gaps = [0.0 if event["phase"] in FINAL else gap for event, gap in zip(events, gaps, strict=False)]
    idle = sum(gaps) - seconds
    longest = sorted(
        (i for i, gap in enumerate(gaps) if gap > PAUSE_SECONDS), key=gaps.__getitem__, reverse=True
    )
    for i in longest:
        if idle < PAUSE_SECONDS:
            break
        idle -= gaps[i]
        gaps[i] = 0.0
    return list(accumulate(gaps, initial=0.0))


def log_tail(folder: Path) -> str:
    """The end of what a run's process has printed."""
    path = folder / "log.txt"
    if not path.is_file():
        return "This run was started in a terminal, which shows its log."
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_CHARACTERS))
        return file.read().decode("utf-8", "replace")


def last_line(folder: Path) -> str:
    lines = [line for line in log_tail(folder).splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "its process ended without a message"
