"""What all pages share: decodes in turns, rounds in the live blend, tasks, and what a demo allows."""

import dataclasses
import itertools
import json
import threading

import pytest

from conftest import random_adapter, wait
from thinkswitch import recipe, rounds, runs
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, load_preset, make_preset
from thinkswitch.recipe import Schedule
from ui import decoding, scheduling
from ui.decoding import Waiting
from ui.run_control import PAIR
from ui.studio import Studio
from ui.sweeps import Sweep

QUESTION = "What is 4 + 5 - 2?"


def never():
    return False


def rows(studio, prompt, ts, tokens=40, choice=PAIR):
    from thinkswitch import evaluate
    from thinkswitch.sampler import Sampling

    loaded = studio.loaded
    points = studio.points(loaded, choice, ts, Schedule())
    return [
        evaluate.question(loaded.pair, loaded.preset, prompt, t, p, settings=Sampling(max_new_tokens=tokens))
        for t, p in zip(ts, points, strict=True)
    ]


def last_chunks(news) -> dict:
    """The last chunk of every row."""
    latest = {}
    for one in news:
        if not isinstance(one, Waiting):
            latest |= one.chunks
    return latest


def said(news) -> dict:
    return {row: (chunk.text, chunk.finish) for row, chunk in last_chunks(news).items()}


def idle(studio) -> bool:
    return len(studio.decode_queue) == 0 and studio.model_lock.in_line == 0


def test_visitors_who_decode_at_once_read_what_they_would_alone(studio):
    """Six threads, of which four share the model and two wait in line."""
    asks = [(f"What is {n} + 5 - 2 + 7?", [*[0.0, 0.3 + n / 20, 1.0][: 1 + n % 3], 1.0]) for n in range(3, 9)]
    asked = [rows(studio, *ask) for ask in asks]
    alone = [said(studio.decode(studio.loaded, one, never)) for one in asked]
    got, waited = {}, []

    def visit(i):
        news = list(studio.decode(studio.loaded, asked[i], never))
        waited.append({one.ahead for one in news if isinstance(one, Waiting)})
        got[i] = said(news)

    threads = [threading.Thread(target=visit, args=(i,), daemon=True) for i in range(6)]
    with studio.model_lock.turn():  # all are there before the first step
        for thread in threads:
            thread.start()
        wait(lambda: len(studio.decode_queue) == 6 and studio.model_lock.in_line == 5)
    for thread in threads:
        thread.join(60)
    assert [got[i] for i in range(6)] == alone
    assert waited.count(set()) == 4 and all(0 in ahead for ahead in waited if ahead)
    assert {ahead for visit in waited for ahead in visit} == {0, 1, 2}
    assert idle(studio)
    assert alone[0][1][0].endswith("\\boxed{13}")  # 3 + 5 - 2 + 7, thought


def test_stop_ends_a_decode_at_its_next_step_and_frees_the_model(studio):
    looks = itertools.count(1)
    news = studio.decode(studio.loaded, rows(studio, QUESTION, [0.9, 1.0]), lambda: next(looks) > 6)
    last = last_chunks(news).values()
    assert {(chunk.finish, chunk.tokens) for chunk in last} == {("cancel", 6)}
    assert all(chunk.text for chunk in last)
    assert idle(studio)
    at_once = said(studio.decode(studio.loaded, rows(studio, QUESTION, [0.0, 1.0]), lambda: True))
    assert set(at_once.values()) == {("", "cancel")}


def test_a_page_that_goes_away_in_the_middle_leaves_the_model_free(studio, monkeypatch):
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.0)
    news = studio.decode(studio.loaded, rows(studio, QUESTION, [1.0]), never)
    assert next(news).chunks[0].finish is None
    news.close()
    assert idle(studio)
    again = said(studio.decode(studio.loaded, rows(studio, QUESTION, [1.0]), never))
    assert again[0][0].endswith("\\boxed{7}")


def test_another_pair_ends_the_decodes_of_the_old_one(studio, monkeypatch):
    monkeypatch.setattr(scheduling, "TURN_SECONDS", 0.0)
    old = studio.loaded
    news = studio.decode(old, rows(studio, QUESTION, [1.0]), never)
    next(news)
    monkeypatch.setattr(studio.loader, "loaded", dataclasses.replace(old))
    assert {finish for _, finish in said(news).values()} == {"cancel"}


# ---- memory


def test_a_batch_is_as_wide_as_memory_is_free(studio, monkeypatch):
    """Compare plans for 3 rows; rendering the spectrum decodes 11, which were one batch whatever was free."""
    from thinkswitch import memory_plan

    spectrum = rows(studio, QUESTION, [i / 10 for i in range(11)])
    whole = said(studio.decode(studio.loaded, spectrum, never))
    loaded = studio.loaded
    plain = dataclasses.replace(loaded.preset, four_bit=False)
    setup = memory_plan.read_setup(loaded.pair, plain, memory_plan.LIVE)
    each = memory_plan.row_bytes(setup, 40, len(spectrum[0].ids))
    widths = []
    place = loaded.blend.place
    monkeypatch.setattr(loaded.blend, "place", lambda recipes: widths.append(len(recipes)) or place(recipes))
    for free, widest in ((each * 4.5, 4), (each * 100, 11), (0, 1)):
        monkeypatch.setattr(memory_plan, "free_bytes", lambda device, free=free: free)
        widths.clear()
        parts = said(studio.decode(loaded, spectrum, never))
        assert max(widths) == widest and parts.keys() == whole.keys()
        assert {finish for _, finish in parts.values()} <= {"stop", "length"}


# ---- rounds


def write_run(root, name, pair, seeds) -> dict:
    """A run as the loop leaves it; returns {choice: Round}."""
    from safetensors.torch import save_file

    runs.create(load_preset("tiny"), root / name)
    state, made = rounds.start(pair), {}
    for number, seed in enumerate(seeds, 1):
        adapter = random_adapter(pair, seed, rank=2)
        folder = root / name / "rounds" / str(number) / "adapter"
        folder.mkdir(parents=True)
        tensors = {
            f"base_model.model.{weight.removesuffix('.weight')}.lora_{side}.weight": tensor.contiguous()
            for weight, low_rank in adapter.low_rank.items()
            for side, tensor in zip("AB", low_rank, strict=True)
        }
        save_file(tensors, folder / "adapter_model.safetensors")
        settings = json.dumps({"r": 2, "lora_alpha": 2})
        (folder / "adapter_config.json").write_text(settings, encoding="utf-8")
        state = rounds.rebuild(pair, state, adapter, 0.8, "original", Schedule())
        rounds.write(root / name, state)
        made[f"{name} · round {number}"] = state
    return made


def test_rounds_of_runs_join_the_live_blend_once(studio, root):
    """Two runs, read from disk: each round's points lie in the basis of the one blend."""
    pair = studio.loaded.pair
    made = write_run(root, "a", pair, (1, 2)) | write_run(root, "b", pair, (3,))
    sides = studio.loaded.blend.sides
    for choice in ("a · round 1", "b · round 1", "a · round 2", "a · round 1", "b · round 1"):
        assert studio.find_round(studio.loaded, choice).point(0.4) == made[choice].point(0.4)
        [point] = studio.points(studio.loaded, choice, [0.4], Schedule())
        slots = studio.loaded.rounds.use(studio.round_key(choice), made[choice])
        assert point == recipe.remap_adapters(made[choice].point(0.4), slots)
    assert studio.loaded.blend.sides == sides + 3  # three adapters, each once
    with pytest.raises(UserError, match="has no round 7"):
        studio.find_round(studio.loaded, "a · round 7")


# ---- tasks


def test_one_task_of_a_name_at_a_time():
    studio, go = Studio(Preset(), "none"), threading.Event()

    def work(cancelled):
        yield "wait", 0, 1
        go.wait(10)

    first = studio.task("sweep", work)
    with pytest.raises(UserError, match="a sweep is running already; wait for it, or stop it"):
        studio.task("sweep", work)
    other = studio.task("export", work)
    go.set()
    wait(lambda: first.ended and other.ended)
    again = studio.task("sweep", work)
    assert studio.tasks["sweep"] is again is not first
    wait(lambda: again.ended)


@pytest.fixture
def endless():
    """Work that goes on until it is cancelled or the test is over."""
    over = threading.Event()

    def work(cancelled):
        while not over.wait(0.005):
            yield "wait", 0, 1

    yield work
    over.set()


def test_a_task_of_another_visitor_cannot_be_cancelled_in_a_demo(endless):
    studio = Studio(load_preset("tiny"), "tiny", demo=True)
    task = studio.task("export", endless, "s1")
    with pytest.raises(UserError, match="another visitor started the export"):
        studio.cancel("export", "s2")
    studio.cancel("sweep", "s2")  # there is none
    studio.cancel("export", "s1")
    wait(lambda: task.ended)
    studio.cancel("export", "s2")  # it has ended


def sweep_named(name: str) -> Sweep:
    return Sweep(name, "the pair", Schedule(), ("a", "b"), 1, [])


def test_the_newest_sweeps_are_kept():
    """All of them were: a page left open for hours drew a hundred curves, and the server grew."""
    studio = Studio(load_preset("tiny"), "tiny", demo=False)
    for name in (*"abcdefgh", "b", "i"):
        studio.keep_sweep(sweep_named(name))
    assert list(studio.sweeps) == list("cdefghbi")


def test_sweeps_of_other_visitors_are_not_cleared_in_a_demo():
    demo, alone = (Studio(load_preset("tiny"), "tiny", demo) for demo in (True, False))
    for studio in (demo, alone):
        for page in ("s1", "s2"):
            studio.sessions.get(page)
        studio.keep_sweep(sweep_named("mine"), "s1")
        studio.keep_sweep(sweep_named("theirs"), "s2")
        studio.clear_sweeps("s1")
    assert list(demo.sweeps) == ["theirs"] and list(alone.sweeps) == []


def test_no_pair_is_loaded_while_an_export_uses_the_old_one(endless):
    """Both would have been in memory."""
    studio = Studio(load_preset("tiny"), "tiny")
    studio.task("export", endless, "s1")
    with pytest.raises(UserError, match="an export is using the pair in memory; wait for it, or stop it"):
        studio.load(studio.preset, "tiny", "s1")
    assert not studio.loader.loading


def test_nothing_new_is_begun_on_a_pair_that_is_about_to_go(endless):
    """An export that began while another pair was being read kept both in memory."""
    studio = Studio(load_preset("tiny"), "tiny")
    studio.loader.loading = True
    for download in (None, object()):
        studio.loader.download = download
        with pytest.raises(UserError, match="a pair is being loaded; wait until it is ready"):
            studio.task("export", endless)


def test_a_sweep_may_begin_while_another_pair_is_downloaded(endless):
    """Gigabytes take an hour; a sweep gives way at its next step when they are here."""
    studio = Studio(load_preset("tiny"), "tiny")
    studio.loader.loading = True
    with pytest.raises(UserError, match="a pair is being loaded"):
        studio.task("sweep", endless)
    studio.loader.download = object()
    studio.task("sweep", endless)


def test_a_table_of_a_closed_page_belongs_to_nobody():
    """In a demo nobody could clear it any more."""
    studio = Studio(load_preset("tiny"), "tiny", demo=True)
    studio.sessions.get("s1")
    studio.page_closed("s1")
    studio.keep_sweep(sweep_named("theirs"), "s1")
    studio.clear_sweeps("s2")
    assert studio.sweeps == {}


def test_in_a_demo_nobody_takes_the_pair_from_somebody_else(endless):
    """Load ended everybody's decode."""
    studio = Studio(load_preset("tiny"), "tiny", demo=True)
    loaded = []
    studio.loader.load = lambda preset, source: loaded.append(source)
    studio.task("sweep", endless, "s1")
    with pytest.raises(UserError, match="another visitor is using this pair; load yours when they are done"):
        studio.load(studio.preset, "tiny", "s2")
    studio.load(studio.preset, "tiny", "s1")
    studio.page_closed("s1")
    with studio.decode_queue.join(decoding.QueuedDecode(never, "s3")):
        with pytest.raises(UserError, match="another visitor is using this pair"):
            studio.load(studio.preset, "tiny", "s2")
        studio.load(studio.preset, "tiny", "s3")
    studio.load(studio.preset, "tiny", "s2")
    assert loaded == ["tiny"] * 3


# ---- a demo


def test_a_demo_limits_the_tokens_of_a_run(root):
    studio = Studio(load_preset("tiny"), "tiny", demo=True)
    with pytest.raises(UserError, match="at most 512 tokens"):
        studio.start(make_preset({"think_tokens": 513}, base=load_preset("tiny")))
    assert not root.exists()


def test_a_demo_shows_names_of_files_and_no_way_to_them():
    text = (
        "held_out asks for 400, /srv/models/tiny/held_out.jsonl has 1; qiaojin/PubMedQA and 60/60 stay, "
        "C:\\Users\\me\\x.yaml goes"
    )
    shown = Studio(load_preset("tiny"), "tiny", demo=True).public(text)
    assert "held_out.jsonl has 1" in shown and "qiaojin/PubMedQA and 60/60 stay" in shown
    assert "/srv" not in shown and "Users" not in shown
    assert Studio(load_preset("tiny"), "tiny").public(text) == text
