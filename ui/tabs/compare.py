"""Compare: the slider. Instruct, blend and thinking answer one prompt side by side, as rows of one batch."""

import time
from dataclasses import dataclass, replace

import gradio as gr

from thinkswitch import grading, problems
from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from ui.studio import DEMO_PROMPT, DEMO_TOKENS, PAIR, Studio
from ui.widgets import charts, html, theme
from ui.widgets.assets import asset
from ui.widgets.components import Answer, AnswerCard, Chart, MessageBox

RENDERED_POINTS = [i / 10 for i in range(11)]  # the points of the rendered spectrum
PROBABILITY_POINTS = [i / 20 for i in range(21)]  # the points of the probability strip
SHORT = 256  # answers of at most so many tokens are shown without being asked for, when the page opens
EMPTY = "Press Run, or move the slider."


@dataclass(frozen=True)
class Ask:
    """What a visitor asks, and how."""

    prompt: str
    t: float
    round: str
    template: str
    how: str
    temperature: float
    top_p: float
    top_k: int
    limit: int
    seed: int
    schedule: Schedule

    def same_ends(self, other: "Ask") -> bool:
        """Whether instruct and thinking would say the same again: only t and the schedule may differ."""
        return replace(self, t=0, schedule=Schedule()) == replace(other, t=0, schedule=Schedule())


def build(studio: Studio, schedule: gr.State) -> dict[str, gr.components.Component]:
    """The tab; returns what a reload brings back, and what Export takes over."""
    preset = studio.preset
    first = studio.examples[0].prompt if studio.examples else ""
    with gr.Row(equal_height=True):
        prompt = gr.Textbox(first, label="Prompt", elem_id="compare-prompt", lines=1, max_lines=8, scale=6, min_width=300, placeholder="Ask anything the pair can answer",
                            max_length=20_000)
        run = gr.Button("Run", variant="primary", elem_id="compare-run", size="md", scale=1, min_width=100)
        stop = gr.Button("Stop", elem_id="compare-stop", size="md", interactive=False, scale=1, min_width=100)
    chips = gr.Dataset(components=[prompt], samples=[[p.prompt] for p in studio.examples], label="Held-out problems", elem_id="compare-examples",
                       show_label=False, type="values")
    with gr.Row(equal_height=True):
        t = gr.Slider(0, 1, 0.5, step=0.01, label="t: 0 = instruct, instinct · 1 = thinking, deliberation", elem_id="compare-t", scale=5, min_width=300)
        round = gr.Dropdown(studio.choices(), value=PAIR, label="Round", elem_id="compare-round", allow_custom_value=True, scale=2, min_width=180)
        render = gr.Button("Render the spectrum", elem_id="compare-spectrum", size="md", scale=1, min_width=150)
    strip = Chart(elem_id="compare-switch", description="Probability, for this prompt, of opening a trace over t", height=74)
    status = MessageBox(elem_id="compare-status")
    cards = []
    with gr.Row(equal_height=True):
        for name, edge in (("instruct", theme.INSTRUCT), ("blend", theme.blend_colour(0.5)), ("thinking", theme.THINKING)):
            with gr.Column(min_width=270):  # below each other on a phone
                cards.append(AnswerCard(Answer(title=name, empty=EMPTY, edge=edge), elem_id=f"compare-{name}"))
    with gr.Accordion("Sampling and chat template", open=False, elem_id="compare-sampling"):
        with gr.Row():
            how = gr.Radio(["as the preset has it", "greedy", "custom"], value="greedy" if preset.greedy else "as the preset has it", label="Sampling", elem_id="compare-how")
            template = gr.Radio(["auto", "instruct", "thinking"], value="auto", label="Chat template", elem_id="compare-template",
                                info="auto: the ends their own, blends the preset's. The thinking template opens the trace itself.")
        with gr.Row():
            temperature = gr.Slider(0, 2, 0.6, step=0.05, label="Temperature (custom)")
            top_p = gr.Slider(0.01, 1, 0.95, step=0.01, label="Top-p (custom)")
            top_k = gr.Number(20, precision=0, label="Top-k (custom, 0 = all)")
            limit = gr.Number(0, precision=0, label="Most new tokens (0 = the preset's)", elem_id="compare-limit")
            seed = gr.Number(0, precision=0, label="Seed")
    film = gr.JSON([], visible="hidden", elem_id="compare-film")
    asked = gr.State(False)  # the Ask whose ends stand in the columns, or are being written

    inputs = [prompt, t, round, template, how, temperature, top_p, top_k, limit, seed, schedule]
    columns = [*cards, status, asked, film, stop]
    live = dict(show_progress="hidden", concurrency_limit=None, api_visibility="private", trigger_mode="multiple")

    def all_three(request: gr.Request, *values):
        ask = ask_of(values)
        yield from answer(studio, request.session_hash, ask, [0.0, ask.t, 1.0])

    def changed(request: gr.Request, *values):
        if studio.preset.think_tokens > SHORT:
            yield skip(status=html.quiet("Press Run to see it with these settings."))
        else:
            yield from all_three(request, *values)

    def middle(request: gr.Request, last: Ask | None, frames: list, *values):
        ask = ask_of(values)
        if frames and last and replace(ask, t=0) == replace(last, t=0):
            yield skip(status=html.quiet(f"Rendered: the nearest of {len(RENDERED_POINTS)} points is shown. Run decodes t = {ask.t:g} itself."))
        else:
            yield from answer(studio, request.session_hash, ask, [ask.t] if last and ask.same_ends(last) else [0.0, ask.t, 1.0])

    def spectrum(request: gr.Request, *values):
        yield from answer(studio, request.session_hash, ask_of(values), RENDERED_POINTS)

    def halt(request: gr.Request):
        studio.visitor(request.session_hash).stop()

    def probabilities(*values):
        return probability_strip(studio, ask_of(values))

    def greet(request: gr.Request, *values):
        """The page opens with answers, where they cost nothing."""
        while studio.loaded is None and not studio.failed:
            yield skip(status=html.quiet(f"{studio.status} …"))
            time.sleep(0.3)
        if studio.failed:
            yield skip(status=html.error(studio.status))
        elif values[0].strip() and studio.preset.think_tokens <= SHORT:
            yield from all_three(request, *values)
        else:
            yield skip(status="")

    def both(event) -> None:
        event(all_three, inputs, columns, **live)
        event(probabilities, inputs, strip, **live)

    both(run.click)
    both(prompt.submit)
    both(chips.click(lambda sample: sample[0], chips, prompt, show_progress="hidden", api_visibility="private").then)
    for setting in (round, template, how):
        setting.input(changed, inputs, columns, **live)
        setting.input(probabilities, inputs, strip, **live)
    schedule.change(lambda: [], None, film, show_progress="hidden", api_visibility="private")
    schedule.change(probabilities, inputs, strip, **live)
    prompt.input(None, None, film, js="() => []")  # frames of another prompt would mislead
    t.input(None, [t, film, cards[1]], cards[1], js=asset("scrub.js"))
    t.release(middle, [asked, film, *inputs], columns, **live)
    render.click(spectrum, inputs, columns, **live)
    stop.click(halt, None, None, **live)

    def opened(after) -> None:
        after(greet, inputs, columns, **live).then(probabilities, inputs, strip, **live)

    return dict(kept=[prompt, t, round, template, how, temperature, top_p, top_k, limit, seed], opened=opened, chips=chips, prompt=prompt, t=t, round=round)


def ask_of(values) -> Ask:
    prompt, t, round, template, how, temperature, top_p, top_k, limit, seed, schedule = values
    return Ask(prompt or "", float(t or 0), round or PAIR, template, how, temperature or 0.0, top_p or 1.0, int(top_k or 0), int(limit or 0), int(seed or 0), schedule)


def skip(cards=(None, None, None), status=None, asked=None, film=None, working=None) -> tuple:
    """Outputs of which only some change. Stop can be pressed while a decode works."""
    values = [gr.skip() if x is None else x for x in (*cards, status, asked, film)]
    return (*values, gr.skip() if working is None else gr.update(interactive=working))


def answer(studio: Studio, session: str, ask: Ask, ts: list[float]):
    """Decode some points as one batch. One point: only the middle column changes. More: the first and last are the ends.

    A newer wish of the same visitor ends this one silently; Stop ends it visibly.
    """
    visitor, only_middle = studio.visitor(session), len(ts) == 1
    newer_blend = visitor.wish("blend")
    newer = newer_blend if only_middle else visitor.wish("ends")
    stops = visitor.stops
    try:
        loaded = studio.ready()
        rows = rows_of(studio, loaded, ask, ts)
    except UserError as error:
        yield skip(status=html.toast(UserError(studio.public(str(error)))), working=False)
        return
    problem = studio.problems.get(problems.Problem(ask.prompt).key)
    near = min(range(len(ts)), key=lambda i: abs(ts[i] - ask.t))
    latest, took, began = {}, {}, time.time()

    def cards() -> tuple:
        made = [card(t, latest.get(i), took.get(i), time.time() - began, problem) for i, t in enumerate(ts)]
        if only_middle:
            return None, made[0], None
        return made[0], made[near] if not newer_blend() else None, made[-1]

    for news in studio.decode(loaded, rows, lambda: newer() or visitor.stops != stops):
        if newer():
            return
        if isinstance(news, int):
            yield skip(status=html.quiet(f"{news} ahead of you …"), working=True)
            continue
        latest |= news
        took |= {i: time.time() - began for i, chunk in news.items() if chunk.finish}
        yield skip(cards(), html.quiet(said(ask, len(ts), len(took))) if len(took) < len(ts) else None,
                   None if only_middle else ask, working=True)
    if newer():
        return
    if len(took) < len(ts):  # the pair was taken away
        yield skip(status=html.error("The pair was changed meanwhile; press Run again."), asked=False, working=False)
        return
    stopped = any(chunk.finish == "cancel" for chunk in latest.values())
    film = [] if not only_middle else None
    if len(ts) == len(RENDERED_POINTS) and not stopped:
        film = [card(t, latest[i], took[i], 0, problem) | dict(t=t) for i, t in enumerate(ts)]
    yield skip(cards(), html.quiet(said(ask, len(ts), len(took), time.time() - began, stopped)),
               False if stopped else None, film, working=False)


def rows_of(studio: Studio, loaded, ask: Ask, ts: list[float]) -> list:
    from thinkswitch import evaluate
    from thinkswitch.generate import Sampling
    checked(studio, loaded, ask)
    recipes, rows = studio.points(loaded, ask.round, ts, ask.schedule), []
    for t, recipe in zip(ts, recipes):
        settings = evaluate.sampling(loaded.preset, "instruct" if t == 0 else "thinking", ask.how == "greedy")
        if ask.how == "custom":
            settings = Sampling(ask.temperature, ask.top_p, ask.top_k, settings.max_new_tokens)
        most = min(filter(None, (ask.limit, DEMO_TOKENS if studio.demo else 0, settings.max_new_tokens)))
        rows.append(evaluate.question(loaded.pair, loaded.preset, ask.prompt, t, recipe, ask.template, evaluate.with_token_limit(settings, most), ask.seed))
    return rows


def checked(studio: Studio, loaded, ask: Ask) -> None:
    """Refuses before work what no decode could answer."""
    if not ask.prompt.strip():
        raise UserError("the prompt is empty; write a question, or click on one of the examples")
    if ask.template not in ("auto", "instruct", "thinking"):
        raise UserError(f"there is no chat template {ask.template!r}")
    for name, value in (("top-k", ask.top_k), ("the most new tokens", ask.limit), ("the seed", ask.seed)):
        if value < 0:
            raise UserError(f"{name} must be at least 0, it is {value}")
    room = min(getattr(loaded.pair.config, "max_position_embeddings", 1 << 20), DEMO_PROMPT if studio.demo else 1 << 20)
    length = len(loaded.pair.thinking.prompt_ids(ask.prompt))
    if length >= room:
        raise UserError(f"the prompt is too long: {length} tokens, and there is room for {room}")


def card(t: float, chunk, seconds: float | None, so_far: float, problem: problems.Problem | None) -> dict:
    """What a column shows of a Chunk."""
    name = "instruct" if t == 0 else "thinking" if t == 1 else f"blend · t = {t:g}"
    shown = dict(title=name, edge=theme.blend_colour(t))
    if chunk is None:
        return shown | dict(empty="…")
    end = {"length": ", cut off there", "cancel": ", stopped"}.get(chunk.finish, "")
    time_taken = seconds or so_far
    mark = "" if not chunk.finish or not problem or chunk.finish == "cancel" else "✓" if grading.grade(chunk.answer, problem.answer, problem.kind) else "✗"
    odd = {"wrong close": " · closed by a wrong tag", "doubled": " · tags doubled", "open": " · never closed" if chunk.finish else ""}.get(chunk.state, "")
    return shown | dict(trace=chunk.trace, trace_title=f"trace{odd}", thinking=chunk.thinking and not chunk.finish, answer=chunk.answer, mark=mark,
                        foot=f"{chunk.tokens} tokens{end} · {time_taken:.2f} s · {chunk.tokens / max(1e-3, time_taken):,.0f} tokens/s",
                        empty="no answer" if chunk.finish else "…")


def said(ask: Ask, rows: int, done: int, seconds: float | None = None, stopped: bool = False) -> str:
    what = "the middle" if rows == 1 else f"{rows} points as one batch"
    where = ask.round + ("" if ask.schedule == Schedule() else ", with the schedule of Explore")
    if seconds is None:
        return f"{where}: decoding {what}, {done} of {rows} done"
    return f"{where}: {what}, {'stopped after' if stopped else 'in'} {seconds:.2f} s"


def probability_strip(studio: Studio, ask: Ask):
    """The strip: the prompt once forward at 21 points."""
    if studio.loaded is None or not ask.prompt.strip():
        return gr.skip()
    from thinkswitch import evaluate
    loaded = studio.loaded
    try:
        template = getattr(loaded.pair, loaded.preset.template if ask.template in ("auto", "") else ask.template, loaded.pair.instruct)
        checked(studio, loaded, ask)
        if template.template_opens_think:
            return charts.probability(PROBABILITY_POINTS, [1.0] * len(PROBABILITY_POINTS), ask.t)
        recipes, opens = studio.points(loaded, ask.round, PROBABILITY_POINTS, ask.schedule), []
        for start in range(0, len(PROBABILITY_POINTS), 3):  # in turns: a long prompt must not keep the others waiting
            with studio.lane.turn():
                studio.pace()
                opens += evaluate.probability_of_think(loaded.blend, template, ask.prompt, recipes[start:start + 3])
        return charts.probability(PROBABILITY_POINTS, opens, ask.t)
    except UserError:  # the columns have said it
        return gr.skip()
