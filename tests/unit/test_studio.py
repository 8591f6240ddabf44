"""What all visitors share: the live pair, decodes in turns, tasks, runs."""

import dataclasses
import json
import threading
import time

import pytest

from conftest import TINY, random_adapter, wait
from thinkswitch import recipe, rounds, runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, apply_settings, load_preset, make_preset
from thinkswitch.problems import Problem
from thinkswitch.recipe import Schedule
from ui import scheduling
from ui import studio as studio_module
from ui.studio import PAIR, Studio, pick_examples
from ui.tabs import loop
from ui.widgets import form


def test_a_visitor_who_leaves_is_stopped_and_forgotten():
    studio = Studio(Preset(), "none")
    one, two = studio.visitor("s1"), studio.visitor("s2")
    assert studio.visitor("s1") is one
    studio.left("s1")
    studio.left("never came")
    assert one.stops == 1 and two.stops == 0 and studio.visitor("s1") is not one


def test_one_task_of_a_name_at_a_time():
    studio, go = Studio(Preset(), "none"), threading.Event()

    def work(cancelled):
        yield "wait", 0, 1
        go.wait(10)

    first = studio.task("sweep", work)
    with pytest.raises(UserError, match="sweep is at work already"):
        studio.task("sweep", work)
    other = studio.task("export", work)
    go.set()
    wait(lambda: first.ended and other.ended)
    again = studio.task("sweep", work)
    assert studio.tasks["sweep"] is again is not first
    wait(lambda: again.ended)


def problems(*kinds):
    return [Problem(f"{i} {kind}", "1", kind) for i, kind in enumerate(kinds)]


def test_examples_are_the_first_ones_of_every_kind():
    assert [p.prompt for p in pick_examples(problems(*["integer"] * 8, *["choice"] * 8))] == [
        "0 integer",
        "1 integer",
        "8 choice",
        "9 choice",
    ]
    assert [
        p.prompt for p in pick_examples(problems("integer", "choice", "integer", "choice", "integer"))
    ] == ["0 integer", "1 choice", "2 integer", "3 choice"]
    assert [p.prompt for p in pick_examples(problems(*["text"] * 9))] == [
        "0 text",
        "1 text",
        "2 text",
        "3 text",
    ]
    assert pick_examples([]) == [] and len(pick_examples(problems("text"))) == 1
    assert len(pick_examples(problems(*["integer", "choice", "math", "text"] * 3))) == 4


def test_examples_cover_three_kinds():
    """two of each of three kinds are six, cut to the first four; a kind that comes late is lost."""
    assert {p.kind for p in pick_examples(problems(*["integer"] * 5, *["choice"] * 5, *["math"] * 5))} == {
        "integer",
        "choice",
        "math",
    }
    assert len(pick_examples(problems(*["integer"] * 5, *["choice"] * 5, *["math"] * 5))) == 4


def test_only_listed_runs_can_be_chosen(root):
    """The choice is text from outside: it must not name a path."""
    studio = Studio(load_preset("tiny"), "tiny")
    runs.create(load_preset("tiny"), root / "mine")
    runs.create(load_preset("tiny"), root.parent / "beside")
    for nothing in (PAIR, "", None):
        assert studio.run_of(nothing) == (None, 0)
    assert studio.run_of("mine · round 2") == (root / "mine", 2)
    for choice in (
        "../../etc · round 1",
        "../beside · round 1",
        f"{root.parent / 'beside'} · round 1",
        "beside · round 1",
        ". · round 1",
        " · round 1",
        "mine",
        "mine · round ",
        "mine · round -1",
        "mine · round 1.0",
        "mine · round 1 ",
        "mine/ · round 1",
        "mine · round 1 · round x",
        "\0 · round 1",
    ):
        with pytest.raises(UserError, match="any more; choose another round"):
            studio.run_of(choice)
    for name in ("../beside", "beside", str(root / "mine"), "", None):
        with pytest.raises(UserError):
            loop.folder_of(name)
    assert loop.folder_of("mine") == root / "mine"


@pytest.mark.parametrize("number", ["²", "9" * 5000], ids=["superscript", "endless"])
def test_an_odd_round_number_is_refused_in_words(root, number):
    """ "²".isdigit() is true, and int() of either raises ValueError."""
    runs.create(load_preset("tiny"), root / "mine")
    with pytest.raises(UserError):
        Studio(load_preset("tiny"), "tiny").run_of(f"mine · round {number}")


def test_choices_are_the_finished_rounds_of_this_pair(root):
    studio = Studio(load_preset("tiny"), "tiny")
    assert studio.choices() == [PAIR]
    for name, preset, count in (
        ("old", load_preset("tiny"), 2),
        ("other", dataclasses.replace(load_preset("tiny"), thinking="elsewhere"), 2),
        ("new", load_preset("tiny"), 1),
    ):
        runs.create(preset, root / name)
        for number in range(count + 1):
            runs.write_atomic(root / name / "rounds" / str(number) / "recipe.json", "{}")
        time.sleep(0.02)
    (root / "refused").mkdir()
    (root / "refused" / "run.json").touch()
    (root / "damaged").mkdir()
    (root / "damaged" / "preset.yaml").write_text("zebra: 1")
    assert studio.choices() == [PAIR, "new · round 1", "old · round 2", "old · round 1"]
    assert {name for _, name in studio.board()[1]} == {
        "old",
        "other",
        "new",
        "refused",
        "damaged",
    } and studio.board()[0] == studio.choices()


def test_one_damaged_run_does_not_take_the_page_away(root):
    """The board, which every page asks every second and which builds the page, raised for one bad line in one run; later for "rounds/1 copy"."""
    for name in ("good", "bad"):
        runs.create(load_preset("tiny"), root / name)
        runs.append(root / name / "events.jsonl", runs.Event(0, "done").to_dict())
    with open(root / "bad" / "events.jsonl", "a") as file:
        file.write("nonsense\n")
    for odd in ("1 copy", "abc", "²"):
        runs.write_atomic(root / "good" / "rounds" / odd / "recipe.json", "{}")
    runs.write_atomic(root / "good" / "run.json", '{"pid": "12", "started": null, "heartbeat": "x"}')
    listing = Studio(load_preset("tiny"), "tiny").board()[1]
    assert (
        {name for _, name in listing} == {"good", "bad"}
        and ("good – done", "good") in listing
        and ("bad – damaged", "bad") in listing
    )


def test_the_page_starts_the_preset_that_its_form_holds(root, monkeypatch):
    """The command is read back by the real parser."""
    from thinkswitch.cli.main import parser

    started = []
    monkeypatch.setattr(
        runs, "start", lambda arguments, folder: started.append((arguments, folder))
    )  # a child imports torch for seconds: see test_runs
    studio = Studio(load_preset("tiny"), "tiny")
    wanted = form.read(
        studio.preset,
        {
            "rounds": 2,
            "learning_rate": 1e-5,
            "four_bit": "false",
            "schedule": "{mlp: 0.5}",
            "prompt_template": "a 'b' {prompt}",
        },
    )
    folder, command = studio.start(wanted)
    assert started == [(command, folder)] and folder.parent == root
    args = parser().parse_args(command)
    assert (args.preset, args.out) == ("tiny", folder) and apply_settings(
        load_preset(args.preset), args.set
    ) == wanted
    assert "--set" not in studio.start(studio.preset)[1]


def rows(studio, prompt, ts, tokens=40, choice=PAIR):
    from thinkswitch import evaluate
    from thinkswitch.generate import Sampling

    points = studio.points(studio.loaded, choice, ts, Schedule())
    return [
        evaluate.question(
            studio.loaded.pair, studio.loaded.preset, prompt, t, p, settings=Sampling(max_new_tokens=tokens)
        )
        for t, p in zip(ts, points)
    ]


def said(news) -> dict:
    """Last chunk of every row."""
    latest = {}
    for one in news:
        if not isinstance(one, int):
            latest |= one
    return {i: (c.text, c.finish) for i, c in latest.items()}


def test_visitors_who_decode_at_once_read_what_they_would_alone(studio):
    """Six threads, of which four share the model and two wait in line."""
    asks = [(f"What is {n} + 5 - 2 + 7?", [0.0, 0.3 + n / 20, 1.0][: 1 + n % 3] + [1.0]) for n in range(3, 9)]
    asked = [rows(studio, *ask) for ask in asks]
    alone = [said(studio.decode(studio.loaded, one, lambda: False)) for one in asked]
    got, lines = {}, []

    def visit(i):
        news = list(studio.decode(studio.loaded, asked[i], lambda: False))
        lines.append({n for n in news if isinstance(n, int)})
        got[i] = said(news)

    prepared = [threading.Thread(target=visit, args=(i,), daemon=True) for i in range(6)]
    with studio.lane.turn():  # all are at the door before the first step
        for thread in prepared:
            thread.start()
        wait(lambda: len(studio.decoding) == 6 and len(studio.lane._line) == 5)
    for thread in prepared:
        thread.join(60)
    assert [got[i] for i in range(6)] == alone
    assert (
        lines.count(set()) == 4 and {1} in lines and any(2 in told for told in lines)
    )  # who waits is told how many are ahead
    assert studio.decoding == [] and not studio.lane._line
    assert alone[0][1][0].endswith("\\boxed{13}")  # 3 + 5 - 2 + 7, thought


def test_stop_ends_a_decode_at_its_next_step_and_frees_the_model(studio):
    looks = []
    news = list(
        studio.decode(
            studio.loaded,
            rows(studio, "What is 4 + 5 - 2?", [0.9, 1.0]),
            lambda: looks.append(1) or len(looks) > 6,
        )
    )
    last = {i: c for one in news for i, c in one.items()}
    assert {(c.finish, c.tokens) for c in last.values()} == {("cancel", 6)} and all(
        c.text for c in last.values()
    )
    assert studio.decoding == [] and not studio.lane._line
    assert set(
        said(
            studio.decode(studio.loaded, rows(studio, "What is 4 + 5 - 2?", [0.0, 1.0]), lambda: True)
        ).values()
    ) == {("", "cancel")}


def test_a_page_hears_seldom_enough_to_stay_alive(studio, monkeypatch):
    """Every turn of 60 ms was a message to the page; on two cores the browser was at work all the time, and a click took half a minute."""
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.0)
    ask = lambda: list(studio.decode(studio.loaded, rows(studio, "What is 4 + 5 - 2?", [1.0]), lambda: False))
    monkeypatch.setattr(studio_module, "NEWS", 0.0)
    every = ask()
    monkeypatch.setattr(studio_module, "NEWS", 3600)
    first, last = ask()  # at once, and whole
    assert len(every) > 10 and first[0] == every[0][0] and last[0] == every[-1][0]


def test_a_page_that_goes_away_in_the_middle_leaves_the_model_free(studio, monkeypatch):
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.0)
    ask = lambda: studio.decode(studio.loaded, rows(studio, "What is 4 + 5 - 2?", [1.0]), lambda: False)
    news = ask()
    assert next(news)[0].finish is None
    news.close()
    assert studio.decoding == [] and not studio.lane._line
    assert said(ask())[0][0].endswith("\\boxed{7}")


def test_another_pair_ends_the_decodes_of_the_old_one(studio, monkeypatch):
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.0)
    old = studio.loaded
    news = studio.decode(old, rows(studio, "What is 4 + 5 - 2?", [1.0]), lambda: False)
    next(news)
    try:
        studio.loaded = dataclasses.replace(old)
        assert {finish for _, finish in said(news).values()} == {"cancel"}
    finally:
        studio.loaded = old


def test_rounds_of_runs_join_the_live_blend_once(studio, root):
    """Two runs, read from disk as the loop leaves them: each round's points lie in the basis of the one blend."""
    from safetensors.torch import save_file

    pair, told = studio.loaded.pair, {}
    for name, seeds in (("a", (1, 2)), ("b", (3,))):
        runs.create(load_preset("tiny"), root / name)
        state = rounds.start(pair)
        for number, seed in enumerate(seeds, 1):
            adapter = random_adapter(pair, seed, rank=2)
            folder = root / name / "rounds" / str(number) / "adapter"
            folder.mkdir(parents=True)
            tensors = {
                f"base_model.model.{n.removesuffix('.weight')}.lora_{side}.weight": t.contiguous()
                for n, ab in adapter.low_rank.items()
                for side, t in zip("AB", ab)
            }
            save_file(tensors, folder / "adapter_model.safetensors")
            (folder / "adapter_config.json").write_text(json.dumps(dict(r=2, lora_alpha=2)))
            state = rounds.rebuild(pair, state, adapter, 0.8, "original", Schedule())
            rounds.write(root / name, state)
            told[f"{name} · round {number}"] = state
    sides = studio.loaded.blend.sides
    for choice in ("a · round 1", "b · round 1", "a · round 2", "a · round 1", "b · round 1"):
        round, places = studio.round(studio.loaded, choice)
        assert round.point(0.4) == told[choice].point(0.4)
        [point] = studio.points(studio.loaded, choice, [0.4], Schedule())
        assert point == recipe.remap_adapters(told[choice].point(0.4), places)
    assert studio.loaded.blend.sides == sides + 3  # three adapters, each once
    assert len(set(studio.loaded.places.values())) == len(studio.loaded.places)
    with pytest.raises(UserError, match="has no round 7"):
        studio.round(studio.loaded, "a · round 7")


def test_a_pair_that_cannot_be_opened_says_so_and_keeps_the_old_one(studio):
    before = studio.loaded
    studio._load(dataclasses.replace(studio.preset, thinking=str(TINY / "nothing")), "broken")
    assert (
        studio.failed and "nothing" in studio.status and studio.loaded is before and studio.source == "tiny"
    )
    studio.failed, studio.status = False, "Ready"


def test_a_stage_limits_the_tokens_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="at most 512 tokens"):
        Studio(load_preset("tiny"), "tiny", demo=True).start(
            make_preset(dict(think_tokens=513), base=load_preset("tiny"))
        )
    assert not (tmp_path / "runs").exists()


def test_a_stage_tells_names_of_files_and_no_way_to_them():
    text = "held_out asks for 400, /srv/models/tiny/held_out.jsonl has 1; qiaojin/PubMedQA and 60/60 stay, C:\\Users\\me\\x.yaml goes"
    told = Studio(load_preset("tiny"), "tiny", demo=True).public(text)
    assert (
        "held_out.jsonl has 1" in told
        and "/srv" not in told
        and "Users" not in told
        and "qiaojin/PubMedQA and 60/60 stay" in told
    )
    assert Studio(load_preset("tiny"), "tiny").public(text) == text


def test_who_gave_up_is_not_counted_as_ahead(monkeypatch):
    """One visitor pressed Run 150 times and was told that 34 were ahead of him: his own clicks."""
    studio = Studio(load_preset("tiny"), "tiny")
    mine, given_up, busy = (lambda: False), (lambda: True), (lambda: False)
    studio.decoding[:] = [busy, *[given_up] * 34, busy, mine]
    assert studio._ahead(mine) == 2
