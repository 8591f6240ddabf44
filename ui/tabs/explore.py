"""Explore: the whole spectrum at once – scores over t, angles between the twins, and schedules to try in Compare."""

from html import escape

import gradio as gr

from thinkswitch.errors import UserError
from thinkswitch.preset import check_schedule
from thinkswitch.recipe import Schedule
from ui.studio import PAIR, Studio
from ui.widgets import charts, html, theme
from ui.widgets.components import Chart, MessageBox

KINDS = ("attention", "mlp", "norm", "embedding")
HINT = html.quiet("A sweep scores points between instruct and thinking on held-out problems, all under one chat template. Rounds are overlaid.")
UNIFORM = "uniform"
NAMES = (UNIFORM, "FFN only", "attention only", "last two thirds")  # recipe.ablations, which imports torch, has the same


def build(studio: Studio, schedule: gr.State) -> dict:
    quiet = dict(show_progress="hidden", api_visibility="private", concurrency_limit=None)
    gr.Markdown("### The spectrum, scored")
    with gr.Row(equal_height=True):
        round = gr.Dropdown(studio.choices(), value=PAIR, label="Round", elem_id="explore-round", allow_custom_value=True, scale=2)
        points = gr.Slider(3, 41, 11, step=1, label="Points of t", elem_id="explore-points", scale=2, min_width=240)
        problems = gr.Slider(10, max(20, studio.preset.held_out), min(100, studio.preset.held_out), step=10, label="Held-out problems", elem_id="explore-problems", scale=2, min_width=240)
        with gr.Column(scale=1, min_width=150):
            start = gr.Button("Sweep", variant="primary", elem_id="explore-sweep-start", size="md")
            with gr.Row():
                stop = gr.Button("Stop", size="sm", elem_id="explore-sweep-stop", interactive=False, min_width=60)
                clear = gr.Button("Clear", size="sm", elem_id="explore-sweep-clear", min_width=60)
    status = MessageBox(HINT, elem_id="explore-status")
    with gr.Row(elem_id="explore-sweep"):
        with gr.Column(min_width=340):
            accuracy = Chart(elem_id="explore-accuracy", description="Accuracy over t", height=340)
        with gr.Column(min_width=340):
            think = Chart(elem_id="explore-think", description="Think rate and mean tokens over t", height=340)
    gr.Markdown("### How far apart the twins are")
    verdict = MessageBox(html.quiet("Comes with the pair."), elem_id="explore-verdict")
    angles = Chart(elem_id="explore-angles", description="Angle between instruct and thinking, layer by module", height=300)
    gr.Markdown("### A schedule for t: Compare and Sweep use it")
    with gr.Row(equal_height=True):
        name = gr.Dropdown(list(NAMES), value=UNIFORM, label="Published ablations", elem_id="schedule-name", scale=1, min_width=240, info="arXiv 2510.10977")
        factors = [gr.Slider(0, 2, 1, step=0.05, label=f"{kind} × t", elem_id=f"schedule-{kind}", scale=1, min_width=200) for kind in KINDS]
    with gr.Row(equal_height=True):
        depth = gr.Textbox("1", label="Depth curve", info="multipliers from first to last layer, interpolated: 0, 1 rises; 0, 1, 0 is a hill", elem_id="schedule-depth", scale=2, min_width=300)
        preview_t = gr.Slider(0, 1, 0.8, step=0.05, label="preview at t", scale=1, min_width=240)
    said = MessageBox(elem_id="schedule-status")
    preview = Chart(elem_id="schedule-preview", description="t that each tensor gets, layer by module", height=300)
    seen, timer = gr.State(None), gr.Timer(1.0, active=False)

    def do_sweep(choice, n, count, schedule):
        try:
            sweep(studio, choice, int(n), int(count), schedule)
        except UserError as error:
            return html.toast(error)
        return html.quiet("Sweeping …")

    def do_stop():
        if task := studio.tasks.get("sweep"):
            task.cancel()

    def tick(last, choice):
        return refresh(studio, last, choice)

    def ablation(name):
        try:
            one = ablations(studio)[name]
        except UserError as error:
            html.toast(error)
            return [gr.skip()] * (1 + len(KINDS))
        return [*(getattr(one, kind) for kind in KINDS), ", ".join(f"{x:g}" for x in one.depth)]

    def edited(*values):
        try:
            one = schedule_of(values[:-1])
        except UserError as error:
            return gr.skip(), html.error(str(error)), gr.skip()
        text = "Every tensor gets t." if one == Schedule() else "Compare and Sweep use this schedule."
        return one, f'<span class="quiet">{text}</span>', preview_of(studio, one, values[-1]) if studio.loaded else gr.skip()

    editor = [*factors, depth]
    start.click(do_sweep, [round, points, problems, schedule], status, **quiet)
    stop.click(do_stop, None, None, **quiet)
    clear.click(studio.sweeps.clear, None, None, **quiet)
    timer.tick(tick, [seen, round], [status, accuracy, think, stop, angles, verdict, seen], **quiet)
    name.input(ablation, name, editor, **quiet)
    for part in editor:
        part.change(edited, [*editor, preview_t], [schedule, said, preview], trigger_mode="always_last", **quiet)
    preview_t.change(edited, [*editor, preview_t], [schedule, said, preview], trigger_mode="always_last", **quiet)
    return dict(kept=editor, round=round, timer=timer, restore=lambda after: after(edited, [*editor, preview_t], [schedule, said, preview], **quiet))


def schedule_of(values) -> Schedule:
    *factors, depth = values
    try:
        curve = tuple(float(x) for x in str(depth).replace(";", ",").split(",") if x.strip())
    except ValueError:
        raise UserError(f"the depth curve is {depth!r}; write numbers with commas between, such as 0, 0.5, 1") from None
    return check_schedule(Schedule(**dict(zip(KINDS, map(float, factors))), depth=curve))


def ablations(studio: Studio) -> dict[str, Schedule]:
    layers = studio.ready().pair.config.num_hidden_layers
    from thinkswitch import recipe
    return recipe.ablations(layers)


def sweep(studio: Studio, choice: str, points: int, count: int, schedule: Schedule) -> None:
    """Start it as a task; its table joins `studio.sweeps`."""
    loaded = studio.ready()
    from thinkswitch import evaluate
    problems = list(studio.problems.values())[:count]
    if not problems:
        raise UserError("the preset names no held-out problems; a sweep needs some")
    ts = [round(i / (points - 1), 4) for i in range(points)]
    recipes = studio.points(loaded, choice, ts, schedule)
    template = getattr(loaded.pair, loaded.preset.template)
    name = choice + ("" if schedule == Schedule() else f" ({short(schedule)})")

    def work(cancelled):
        steps = evaluate.sweep(loaded.blend, template, dict(zip(ts, recipes)), problems, loaded.preset, cancelled=lambda: lend() or cancelled() or studio.loaded is not loaded)
        while True:
            with studio.lane.turn():
                studio.pace()
                try:
                    told = next(steps)
                except StopIteration as end:
                    studio.sweeps.pop(name, None)
                    studio.sweeps[name] = end.value
                    return end.value
            yield "sweep", *told

    def lend() -> bool:
        studio.lane.pass_on()
        return False

    studio.task("sweep", work)


def short(schedule: Schedule) -> str:
    parts = [f"{kind} {getattr(schedule, kind):g}" for kind in KINDS if getattr(schedule, kind) != 1]
    return ", ".join(parts + (["depth curve"] if set(schedule.depth) != {1.0} else []))


def refresh(studio: Studio, last, choice: str) -> tuple:
    """Status, charts and angles, where they have changed."""
    task, sweeps = studio.tasks.get("sweep"), dict(studio.sweeps)
    now = (id(studio.loaded), choice, tuple((k, id(v)) for k, v in sweeps.items()), task and (id(task), task.done, task.ended))
    if now == last:
        return (gr.skip(),) * 7
    working = bool(task and not task.ended)
    status = gr.skip()
    if working:
        status = f"Sweeping: {task.done:,} of {task.total:,} answers" + html.progress_bar(task.done, task.total)
    elif task and task.error:
        status = html.error(task.error[0].upper() + task.error[1:])
    elif sweeps:
        status = verdict_html(*list(sweeps.items())[-1])
    pair_changed = last is None or last[:2] != now[:2]
    curves = (gr.skip(), gr.skip())
    if (last is None or last[2] != now[2]) and sweeps:
        newest = list(sweeps.values())[-1]
        from thinkswitch import evaluate
        curves = charts.spectrum(sweeps, evaluate.broken_zone(newest), evaluate.flip(newest))
    elif last is not None and last[2] and not sweeps:
        curves, status = charts.spectrum({}, [], None), HINT
    heat = angles_of(studio, choice) if pair_changed and studio.loaded else (gr.skip(), gr.skip())
    return (status, *curves, gr.update(interactive=working), *heat, now)


def verdict_html(name: str, points: list[dict]) -> str:
    """What the sweep says, in words."""
    from thinkswitch import evaluate
    flip, zone, best = evaluate.flip(points), evaluate.broken_zone(points), max(points, key=lambda p: (p["accuracy"], -p["mean_tokens"]))
    lines = [f"<b>{escape(name)}</b>, {points[0]['n']} problems: best at t = {best['t']:g} with {100 * best['accuracy']:.1f} % [{100 * best['low']:.1f}, {100 * best['high']:.1f}] "
             f"and {best['mean_tokens']:.0f} tokens an answer.",
             f"Thinking sets in at t = {flip:.2f} (think rate one half)." if flip is not None else "The think rate does not cross one half.",
             f"Broken zone: at t = {', '.join(f'{t:g}' for t in zone)} accuracy is below both ends, beyond chance." if zone else "No broken zone beyond chance: nowhere is accuracy clearly below both ends."]
    return " ".join(lines)


def angles_of(studio: Studio, choice: str) -> tuple:
    """(heatmap, sentence) of the angle between instruct and thinking in a round."""
    from thinkswitch import recipe
    try:
        loaded = studio.ready()
        round, _ = studio.round(loaded, choice)
    except UserError as error:
        return gr.skip(), html.error(str(error))
    gram, ends = round.gram, (round.instruct, round.thinking)
    degrees = {n: recipe.degrees(recipe.cosine(gram[n], ends[0][n], ends[1][n])) for n in gram}
    gaps = {n: recipe.slerp_gap(gram[n], ends[0][n], ends[1][n]) for n in gram}
    worst = max(gaps, key=gaps.get)
    seen = sum(gap > recipe.BF16_ROUNDING for gap in gaps.values())
    falls = sum(recipe.cosine(gram[n], ends[0][n], ends[1][n]) > recipe.LERP_ABOVE for n in gram)
    verdict = (f"SLERP and LERP differ by less than bf16 rounding ({recipe.BF16_ROUNDING:.1e}) in every tensor: on this pair it does not matter which is used." if not seen else
               f"SLERP and LERP differ by more than bf16 rounding ({recipe.BF16_ROUNDING:.1e}) in {seen} of {len(gaps)} tensors.")
    columns, rows = grid(degrees)
    return (charts.heatmap("Angle between instruct and thinking", columns, rows, "°", [[0, charts.rgba(theme.INSTRUCT, 0.06)], [1, theme.INSTRUCT]], zmin=0),
            f"{verdict} <span class=\"quiet\">Largest gap at t = 0.5: {gaps[worst]:.1e} of the norm, in {escape(worst)}. Angles {min(degrees.values()):.2f}° to "
            f"{max(degrees.values()):.2f}°; {falls} of {len(gaps)} tensors are so close that mergekit's rule takes LERP for them.</span>")


def preview_of(studio: Studio, schedule: Schedule, t: float) -> str:
    from thinkswitch import recipe
    names = studio.loaded.pair.names
    columns, rows = grid({n: recipe.scheduled_t(n, t, schedule, recipe.count_layers(names)) for n in names})
    return charts.heatmap(f"t that each tensor gets, slider at {t:g}", columns, rows, "t", [[0, theme.INSTRUCT], [1, theme.THINKING]], zmin=0, zmax=1)


def grid(values: dict[str, float]) -> tuple[list[str], list[list[float | None]]]:
    """{tensor: value} -> modules across, layers down. What has no layer is left out (embedding, final norm, head)."""
    from thinkswitch import recipe
    module = lambda n: n.split(".layers.")[1].split(".", 1)[1].removesuffix(".weight").replace("self_attn.", "").replace("mlp.", "")
    layered = {(recipe.layer_of(n), module(n)): v for n, v in values.items() if recipe.layer_of(n) is not None}
    columns = sorted({m for _, m in layered}, key=lambda m: ("norm" in m, m))
    return columns, [[layered.get((layer, m)) for m in columns] for layer in range(1 + max(layer for layer, _ in layered))]
