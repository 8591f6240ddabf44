"""The server: who may reach it, under which names, and what every page hears."""

import asyncio
import dataclasses
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import gradio as gr
import pytest

import app
from thinkswitch import runs
from thinkswitch.errors import UserError
from thinkswitch.preset import load_preset
from ui import header, security
from ui.loop import form
from ui.meter import Reading
from ui.pulse import News, Pulse, shown_now
from ui.run_control import PAIR
from ui.studio import Studio


def arguments(*flags):
    return app.parser().parse_args(flags)


def test_the_page_answers_to_this_machine_s_names_only():
    local = security.host_names(arguments())
    assert set(local) == {"127.0.0.1", "localhost", "[::1]", "::1"}
    wide = security.host_names(arguments("--host", "0.0.0.0"))
    assert set(local) < set(wide) and not any("*" in name for name in wide)
    assert "*.gradio.live" in security.host_names(arguments("--share"))


@pytest.mark.parametrize("flags", [("--share",), ("--host", "0.0.0.0"), ("--host", "example.org")])
def test_others_need_a_password(flags):
    with pytest.raises(UserError, match=f"{flags[0]}.* lets others reach this page.*; add --auth"):
        security.credentials(arguments(*flags))
    assert security.credentials(arguments(*flags, "--auth", "me:a:b")) == ("me", "a:b")


def test_a_password_needs_a_user_and_both_are_not_empty():
    for auth in ("me", "me:", ":secret", ":"):
        with pytest.raises(UserError, match="USER:PASSWORD"):
            security.credentials(arguments("--auth", auth))
    assert security.credentials(arguments()) is None
    assert security.credentials(arguments("--host", "::1")) is None


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--host", "0.0.0.0"], "add --auth"),
        (["--share"], "add --auth"),
        (["--host", "0.0.0.0", "--auth", "me:"], "USER:PASSWORD"),
        (["--preset", "nothing"], "no preset 'nothing'"),
    ],
)
def test_what_is_not_safe_is_refused_before_anything_listens(monkeypatch, capsys, flags, says):
    monkeypatch.setattr(gr.Blocks, "launch", lambda *args, **kwargs: pytest.fail("it listens"))
    assert app.main(flags) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error


def test_no_other_site_may_frame_the_page():
    """Its buttons start processes and write files; inside a foreign frame a click is easily stolen."""

    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"hello"})

    sent = []

    async def send(message):
        sent.append(message)

    with ThreadPoolExecutor(1) as threads:  # a browser test before this one leaves an event loop in ours
        threads.submit(asyncio.run, security.SecurityHeaders(answer)({"type": "http"}, None, send)).result()
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert headers["x-frame-options"] == "DENY" and headers["x-own"] == "1"
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["frame-ancestors"] == "'none'" and policy["connect-src"].startswith("'self'")
    assert "http" not in headers["content-security-policy"]  # nothing is loaded from, or sent to, elsewhere
    assert sent[1]["body"] == b"hello"


def test_uploads_are_small_and_none_in_a_demo():
    """Any site could have filled the disk through them: 30 MB were accepted, from foreign origins, too."""
    assert app.launch_options(arguments())["max_file_size"] == "32mb"
    assert app.launch_options(arguments("--demo"))["max_file_size"] == "1kb"


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/upload/", "/studio/gradio_api/upload"])
def test_a_demo_takes_no_files(path):
    passed, sent = [], []

    async def page(scope, receive, send):
        passed.append(scope["path"])

    async def send(message):
        sent.append(message)

    def ask(demo: bool, path: str) -> None:
        guard = security.NoUploads(page, demo=demo)
        with ThreadPoolExecutor(1) as threads:
            threads.submit(asyncio.run, guard({"type": "http", "path": path}, None, send)).result()

    ask(True, path)
    assert passed == [] and sent[0]["status"] == 403
    ask(True, "/gradio_api/queue/join")
    ask(False, path)
    assert passed == ["/gradio_api/queue/join", path]


# ---- what every page hears


@pytest.fixture
def pulse(root):
    studio = Studio(load_preset("tiny"), "tiny")
    with gr.Blocks():
        rounds = {name: {"round": gr.Dropdown()} for name in ("Compare", "Explore", "Export")}
        rounds["Compare"]["stage_rounds"] = []
        rounds["Compare"]["chips"] = gr.Dataset(components=["text"], samples=[])
        models_tab = {"outcome": gr.HTML()}
        loop_tab = {
            "run": gr.Dropdown(),
            "overlay": gr.Dropdown(),
            "new_run": gr.Accordion(),
            "form": form.build(studio.preset, demo=False),
        }
        return Pulse(studio, header.build(studio), {**rounds, "Loop": loop_tab, "Models": models_tab})


CHOSEN = (PAIR, PAIR, "old · round 1")


def test_a_new_page_hears_everything_but_its_preset(pulse):
    now = shown_now(pulse.studio)
    update = pulse.updates(None, now, CHOSEN)
    top = pulse.header
    shared = {top.status, top.offer, top.cancel, pulse.tab["Models"]["outcome"]}
    lists = {pulse.tab["Loop"][name] for name in ("run", "overlay", "new_run")}
    assert set(update) == {*shared, *pulse.rounds, *lists}
    assert [update[component]["value"] for component in pulse.rounds] == [PAIR, PAIR, PAIR]  # one was deleted


def test_an_idle_page_hears_nothing(pulse):
    now = shown_now(pulse.studio)
    assert pulse.updates(now, shown_now(pulse.studio), CHOSEN) == {}


def test_news_of_one_tab_is_no_news_of_the_others(root, monkeypatch):
    """Each open tab sent an event every second, whether there was anything to see or not."""
    monkeypatch.setattr("ui.pulse.LOOK_SECONDS", 0)
    studio = Studio(load_preset("tiny"), "tiny")
    run = runs.new_folder(runs.ROOT, "tiny")
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    news = News(studio)
    first = news.versions()
    assert first == dict.fromkeys(("page", "loop", "explore", "export"), 1)
    readings = (Reading(cpu, 1e9, 8e9) for cpu in itertools.count())
    monkeypatch.setattr(studio.meter, "read", lambda: next(readings))  # it changes all the time
    assert news.versions() == first
    (run / "events.jsonl").write_text('{"phase": "think"}\n')
    assert news.versions() == first | {"loop": 2}
    studio.running_sweep = object()
    assert news.versions() == first | {"loop": 2, "explore": 2}
    studio.tasks["export"] = SimpleNamespace(stage="write", done=1, ended=False)
    assert news.versions() == first | {"loop": 2, "explore": 2, "export": 2}


def test_the_loop_tab_hears_that_no_run_is_going_on(root, monkeypatch):
    """A run's last words were drawn while the answer to "which run is running?" was half a second old.

    Start stayed off, and nothing came after these words: after half an hour a visitor waited in vain.
    """
    monkeypatch.setattr("ui.pulse.LOOK_SECONDS", 0)
    studio = Studio(load_preset("tiny"), "tiny")
    run = runs.new_folder(runs.ROOT, "tiny")
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    monkeypatch.setattr(studio.runs, "running", lambda: run)
    news = News(studio)
    drawn = news.versions()
    monkeypatch.setattr(studio.runs, "running", lambda: None)
    assert news.versions() == drawn | {"loop": 2, "page": 2}


def test_a_page_hears_what_has_changed(pulse):
    now = shown_now(pulse.studio)
    loaded = dataclasses.replace(now, status="Reading weights …")
    assert pulse.updates(now, loaded, CHOSEN) == {pulse.header.status: "Reading weights …"}
    failed = dataclasses.replace(now, outcome="no such folder")
    assert pulse.updates(now, failed, CHOSEN) == {pulse.tab["Models"]["outcome"]: "no such folder"}
    more = dataclasses.replace(now, choices=[PAIR, "old · round 1"])
    update = pulse.updates(now, more, CHOSEN)
    assert [update[component]["value"] for component in pulse.rounds] == list(CHOSEN)
    run = dataclasses.replace(now, runs=[("new – running", "new")])
    listed = {
        pulse.tab["Loop"]["run"]: gr.update(choices=[("new – running", "new")]),
        pulse.tab["Loop"]["overlay"]: gr.update(choices=[("none", ""), ("new", "new")]),
    }
    assert pulse.updates(now, run, CHOSEN, "new") == listed


def test_every_page_goes_to_a_run_that_somebody_starts(pulse):
    """A second tab stayed with the run that it showed."""
    now = shown_now(pulse.studio)
    box = pulse.tab["Loop"]["run"]
    begun = dataclasses.replace(now, runs=[("new – running", "new")], running="new")
    assert pulse.updates(now, begun, CHOSEN)[box]["value"] == "new"
    assert pulse.updates(begun, begun, CHOSEN) == {}  # it may go back to another one
    done = dataclasses.replace(begun, runs=[("new – done", "new")], running=None)
    assert "value" not in pulse.updates(begun, done, CHOSEN, "new")[box]
    assert pulse.updates(None, begun, CHOSEN)[box]["value"] == "new"


def test_a_choice_made_in_a_page_s_first_second_stays(pulse):
    """The first pulse put the newest run in its place."""
    box = pulse.tab["Loop"]["run"]
    two = dataclasses.replace(shown_now(pulse.studio), runs=[("new – done", "new"), ("old – done", "old")])
    assert pulse.updates(None, two, CHOSEN, "old")[box]["value"] == "old"
    assert pulse.updates(None, two, CHOSEN, "gone")[box]["value"] is None
    less = dataclasses.replace(two, runs=two.runs[:1])
    assert pulse.updates(two, less, CHOSEN, "old")[box]["value"] is None  # somebody deleted it
    assert "value" not in pulse.updates(two, less, CHOSEN, "new")[box]


def test_another_preset_fills_the_form(pulse):
    now = shown_now(pulse.studio)
    pulse.studio.loader.preset = dataclasses.replace(now.preset, rounds=7, epochs=2)
    for last in (None, now):
        update = pulse.updates(last, shown_now(pulse.studio), CHOSEN)
        fields = pulse.tab["Loop"]["form"].settings
        assert [update[fields[name]]["value"] for name in ("rounds", "epochs")] == [7, 2]
        assert pulse.tab["Compare"]["chips"] in update


# ---- machines with a proxy


@pytest.mark.parametrize(
    "before, no_proxy",
    [
        ({"HTTP_PROXY": "http://p:1"}, "localhost,127.0.0.1,::1"),
        ({"https_proxy": "http://p:1"}, "localhost,127.0.0.1,::1"),
        ({"ALL_PROXY": "http://p:1"}, "localhost,127.0.0.1,::1"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "a.example"}, "a.example,localhost,127.0.0.1,::1"),
        ({"http_proxy": "http://p:1", "no_proxy": "localhost, b"}, "localhost,b,127.0.0.1,::1"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, "*,localhost,127.0.0.1,::1"),
        ({}, None),
    ],
)
def test_no_proxy_is_asked_for_this_machine(monkeypatch, before, no_proxy):
    """What a person has named stays. Without a proxy nothing is set: Windows would then ignore its own."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "x")  # so that what is set below is undone, too
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    app.reach_this_machine_directly()
    assert os.environ.get("NO_PROXY") == os.environ.get("no_proxy") == no_proxy
    monkeypatch.setattr(app, "getproxies", lambda: {"http": "http://registry:1"})
    app.reach_this_machine_directly()
    if "HTTP_PROXY" not in before and "http_proxy" not in before:
        assert os.environ.pop("http_proxy") == "http://registry:1"
