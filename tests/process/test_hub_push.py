"""Pushing an export to the Hub: huggingface_hub as installed, against the Hub in fake_hub.py."""

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
import yaml

import fake_hub_uploads
from conftest import TINY
from process.commands import Commands
from thinkswitch.errors import UserError
from thinkswitch.export import hub_push
from ui.export import push_process
from unit.export_helpers import finish

TOKEN = "hf_WriteMe"


@pytest.fixture(scope="module")
def pusher(hub, tmp_path_factory):
    """A command line whose environment has a token; large files go the way of LFS, which the fake Hub has."""
    home = tmp_path_factory.mktemp("pusher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("HF_HUB_DISABLE_XET", "1")
        commands = Commands(hub, home, offline=False, before=NO_WAITING)
    yield commands
    commands.close()
    shutil.rmtree(home)


# it waits seconds between its tries
NO_WAITING = "import huggingface_hub.utils._http as http; http.time.sleep = lambda seconds: None"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, pusher):
    folder = tmp_path_factory.mktemp("exports") / "half"
    pusher("export", "tiny", "--point", "0.5", "--out", folder)
    return folder


@pytest.fixture
def account(hub):
    """What the Hub knows of whoever pushes; every test begins with an empty Hub."""
    hub.account = fake_hub_uploads.Account()
    before = set(hub.repos)
    yield hub.account
    for repo in set(hub.repos) - before:
        del hub.repos[repo]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def on_hub(hub, name: str) -> dict[str, bytes]:
    return {file: text for file, text in hub.repos[f"models/{name}"].items() if file != ".gitattributes"}


def test_an_export_arrives_byte_for_byte_and_private_if_so_asked(hub, pusher, account, tmp_path):
    out = tmp_path / "half"
    said = pusher("export", "tiny", "--point", "0.5", "--out", out, "--push", "me/half", "--private")
    assert said.splitlines()[-1] == f"pushed: {hub.endpoint}/me/half"
    assert on_hub(hub, "me/half") == contents(out)
    assert account.private == {"me/half": True}


def test_gguf_files_of_two_kinds_are_pushed_side_by_side(hub, pusher, account, tmp_path):
    out = ("--out", tmp_path / "g", "--push", "me/gguf")
    pusher("export", "tiny", "--point", "1", "--gguf", "Q8_0", "BF16", *out)
    there = on_hub(hub, "me/gguf")
    assert there == contents(tmp_path / "g")
    assert "Modelfile" in there and sum(name.endswith(".gguf") for name in there) == 2
    assert account.private == {"me/gguf": False}


def test_the_updates_of_a_run_are_pushed_as_an_adapter(hub, pusher, account, tmp_path):
    """Of a pair from the Hub, since an adapter names its base."""
    names = {side: hub.publish(f"models/owner/{side}", TINY / side) for side in ("instruct", "thinking")}
    sides = [f"{side}={name}" for side, name in names.items()]
    run, out = tmp_path / "run", tmp_path / "adapter"
    few = ["rounds=1", "prompts=4", "held_out=2", "instruct_tokens=32", "epochs=1"]
    pusher("run", "tiny", "--out", run, "--set", *sides, *few)
    export = ("export", run, "--round", "1", "--point", "0", "--adapter", "--out", out)
    pusher(*export, "--push", "me/adapter")
    there = on_hub(hub, "me/adapter")
    assert there == contents(out) and "adapter_model.safetensors" in there
    config = json.loads(there["adapter_config.json"])
    assert config["base_model_name_or_path"] == "owner/instruct"


def test_an_earlier_export_is_replaced_and_what_it_had_more_is_gone(hub, pusher, account, exported, tmp_path):
    pusher("push", exported, "me/again")
    hub.repos["models/me/again"] |= {"extra.bin": b"1"}  # as if that export had had it
    recipe = json.loads(hub.repos["models/me/again"]["recipe.json"])
    recipe["files"].append("extra.bin")
    hub.repos["models/me/again"]["recipe.json"] = json.dumps(recipe).encode()
    hub.commits["models/me/again", hub.sha("models/me/again")] = hub.repos["models/me/again"]
    pusher("push", exported, "me/again")
    assert on_hub(hub, "me/again") == contents(exported)


def test_what_somebody_else_put_there_is_not_touched(hub, pusher, account, exported):
    files = {"README.md": b"mine", "model.safetensors": b"12"}
    hub.publish("models/me/mine", files)
    refusal = pusher.refusal("push", exported, "me/mine")
    expected = f"{hub.endpoint}/me/mine exists and holds what no export has written (README.md, model.safet"
    assert refusal.startswith(expected) and "name another repository" in refusal
    assert hub.repos["models/me/mine"] == files


def test_a_public_repository_does_not_take_a_private_push(hub, pusher, account, exported):
    pusher("push", exported, "me/public")
    refusal = pusher.refusal("push", exported, "me/public", "--private")
    assert "exists and is public" in refusal


def test_a_push_that_breaks_off_is_run_again_without_exporting_again(hub, pusher, account, tmp_path):
    account.break_puts = 1
    out = tmp_path / "broken"
    done = pusher.send(argv=["export", "tiny", "--point", "0.3", "--out", str(out), "--push", "me/broken"])
    *_, last = done.stderr.splitlines()
    assert done.returncode == 1 and last.startswith("error: "), done.stderr
    again = re.search(r"this pushes it: (thinkswitch push .*)$", last)[1]
    assert on_hub(hub, "me/broken") == {}  # one commit, or none
    before = contents(out)
    pusher(*again.split()[1:])
    assert on_hub(hub, "me/broken") == before == contents(out)


def test_a_connection_that_is_cut_in_an_upload_publishes_nothing_and_the_same_again_does(
    hub, pusher, account, exported
):
    account.cut_puts = 100  # more often than the library tries
    done = pusher.send(argv=["push", str(exported), "me/cut"])  # the library says each of its tries, too
    assert done.returncode == 1
    *_, said = done.stderr.splitlines()
    assert said.startswith("error: the push to me/cut broke off and nothing was published (")
    assert said.endswith("push it again: what has arrived is not sent again")
    assert account.cut_puts < 100 and on_hub(hub, "me/cut") == {}
    account.cut_puts = 0
    pusher("push", exported, "me/cut")
    assert on_hub(hub, "me/cut") == contents(exported)


def test_a_push_of_the_page_tells_how_much_has_been_sent(hub, account, exported, monkeypatch, tmp_path):
    asked = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path)}
    for name, value in {**asked, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}.items():
        monkeypatch.setenv(name, value)
    account.held = threading.Event()
    steps = push_process.push(exported, hub_push.Repository("me/told", private=False))
    size = sum(len(content) for content in contents(exported).values())
    kind, sent, total = next(step for step in steps if step[1])
    assert kind == "upload" and 0 < sent <= total == size
    account.held.set()
    pushed, _ = finish(steps)
    assert pushed.endswith("/me/told") and on_hub(hub, "me/told") == contents(exported)
    account.token = "hf_Another"
    with pytest.raises(UserError, match="the Hub does not know your token"):
        finish(push_process.push(exported, hub_push.Repository("me/not-told", private=False)))


def test_large_files_that_have_arrived_are_not_sent_again(hub, pusher, account, exported):
    account.refuse["commit"] = 500
    refusal = pusher.refusal("push", exported, "me/slow")
    assert "push it again" in refusal
    sent = len(account.puts)
    assert sent >= 1
    account.refuse.clear()
    pusher("push", exported, "me/slow")
    assert len(account.puts) == sent
    assert on_hub(hub, "me/slow") == contents(exported)


def fine_grained(*scopes: tuple[str, str]) -> dict:
    """An account whose token has a right for each place."""
    scoped = [{"entity": {"type": "x", "name": name}, "permissions": [right]} for name, right in scopes]
    return {"role": "fineGrained", "rights": {"global": ["discussion.write"], "scoped": scoped}}


@pytest.mark.parametrize(
    "name, change, said",
    [
        (
            "stranger/x",
            {},
            "no repository of stranger is yours to write: your token may write to me; name one of these",
        ),
        ("readers/x", {"orgs": {"readers": "read"}}, "no repository of readers is yours to write"),
        ("me/x", {"role": "read"}, "your token may only read"),
        ("me/x", fine_grained(("me", "repo.content.read")), "fine-grained token may not write to me/x"),
        ("me/x", fine_grained(("me/y", "repo.write")), "fine-grained token may not write to me/x"),
        ("me/x", {"token": "hf_Another"}, "the Hub does not know your token"),
        ("me/x", {"refuse": {"create": 403}}, "your token may not write to me/x"),
        ("me/x", {"refuse": {"preupload": 403}}, "your token may not write to me/x"),
        ("me/x", {"refuse": {"commit": 412}}, "me/x was made or changed meanwhile"),
        ("me/x", {"refuse": {"commit": 404}}, "me/x is not on the Hub any more"),
        ("x", {}, "'x' names no owner; name the repository as owner/name"),
        ("me/a b", {}, "'me/a b' cannot be a repository"),
        ("a/b/c", {}, "'a/b/c' cannot be a repository"),
        ("../x", {}, "cannot be a repository"),
    ],
)
def test_a_push_that_cannot_be_is_refused_in_a_sentence(name, change, said, pusher, account, exported):
    for key, value in change.items():
        setattr(account, key, value)
    before = contents(exported)
    refusal = pusher.refusal("push", exported, name)
    assert said in refusal
    assert contents(exported) == before


@pytest.mark.parametrize(
    "change",
    [
        fine_grained(("Me", "repo.write")),
        fine_grained(("other", "repo.content.read"), ("me/x", "repo.write")),
        {"role": "fineGrained", "rights": {}},  # it does not say, so the Hub decides
    ],
)
def test_a_fine_grained_token_that_may_write_or_does_not_say_is_taken(hub, pusher, account, exported, change):
    for key, value in change.items():
        setattr(account, key, value)
    pusher("push", exported, "me/x")
    assert on_hub(hub, "me/x") == contents(exported)


def test_an_organization_of_mine_takes_it(hub, pusher, account, exported):
    account.orgs = {"Lab": "contributor"}
    pusher("push", exported, "Lab/half")
    assert on_hub(hub, "Lab/half") == contents(exported)


def test_before_work_begins_a_push_without_token_offline_or_to_others_is_refused(
    hub, pusher, online, offline, account, tmp_path
):
    export = ("export", "tiny", "--point", "0.5", "--out", tmp_path / "none", "--push")
    for commands, name, said in (
        (online, "me/x", "a push needs a token with write access"),
        (offline, "me/x", "HF_HUB_OFFLINE is set"),
        (pusher, "stranger/x", "no repository of stranger is yours"),
    ):
        done = commands.send(argv=[*map(str, export), name])
        assert done.returncode == 1 and said in done.stderr.splitlines()[-1], done.stderr
        assert list(tmp_path.iterdir()) == []


def test_only_a_whole_export_and_nothing_else_is_pushed(pusher, account, exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    (copy / "notes.txt").write_text("secret", "utf-8")
    assert "holds what no export has written (notes.txt)" in pusher.refusal("push", copy, "me/x")
    (copy / "notes.txt").unlink()
    (copy / "model.safetensors").unlink()
    assert "lacks model.safetensors" in pusher.refusal("push", copy, "me/x")
    assert "is no export: recipe.json is missing" in pusher.refusal("push", TINY / "instruct", "me/x")
    assert "is no folder" in pusher.refusal("push", tmp_path / "none", "me/x")


def test_an_adapter_whose_base_is_a_folder_is_not_published_as_it_is(pusher, account, exported, tmp_path):
    """Nobody else could have loaded it; its own card says what to write first."""
    copy = tmp_path / "adapter"
    shutil.copytree(exported, copy)
    config = copy / "adapter_config.json"
    recipe = json.loads((copy / "recipe.json").read_text("utf-8"))
    recipe["files"].append(config.name)
    (copy / "recipe.json").write_text(json.dumps(recipe), "utf-8")
    config.write_text(json.dumps({"base_model_name_or_path": "instruct"}), "utf-8")
    assert "names its base as 'instruct', which is no Hub id" in pusher.refusal("push", copy, "me/x")
    for base in ("./instruct", "/a/b", "C:\\a/b", 7, None):
        config.write_text(json.dumps({"base_model_name_or_path": base}), "utf-8")
        assert "which is no Hub id" in pusher.refusal("push", copy, "me/x")
    for damaged in ("{", "[]", "{}"):
        config.write_text(damaged, "utf-8")
        assert "cannot be used" in pusher.refusal("push", copy, "me/x")
    config.write_text(json.dumps({"base_model_name_or_path": "owner/instruct"}), "utf-8")
    pusher("push", copy, "me/x")


@pytest.mark.parametrize("change", [{"HF_TOKEN": "hf_é"}, {"HF_TOKEN": "", "HF_OIDC_RESOURCE": "me/x"}])
def test_a_token_that_cannot_be_sent_is_none(pusher, account, exported, change):
    """The first said to push again, the second was a traceback."""
    push = ["push", str(exported), "me/x"]
    run = f"from thinkswitch.cli.main import main; raise SystemExit(main({push!r}))"
    done = pusher.send(code=f"import os; os.environ.update({change!r}); {run}")
    assert done.returncode == 1
    assert "there is none that can be used" in done.stderr.splitlines()[-1], done.stderr


def test_the_token_is_written_nowhere(hub, pusher, account, exported, tmp_path):
    account.refuse["create"] = 403
    done = [
        pusher.send(argv=["--verbose", "push", str(exported), "me/x"]),
        pusher.send(argv=["push", str(exported), "stranger/x"]),
    ]
    assert TOKEN not in "".join(one.stdout + one.stderr for one in done)
    assert not any(TOKEN.encode() in content for content in contents(exported).values())


def test_the_card_has_the_licence_that_both_parents_have(pusher, tmp_path):
    pair = {}
    for role, licence in (("instruct", "apache-2.0"), ("thinking", "apache-2.0")):
        pair[role] = tmp_path / role
        shutil.copytree(TINY / role, pair[role])
        header = yaml.safe_dump({"license": licence, "tags": ["a"]})
        (pair[role] / "README.md").write_text(f"---\n{header}---\n# A model\n", "utf-8")
    sides = [f"{role}={folder}" for role, folder in pair.items()]

    def header(out: str) -> dict:
        pusher("export", "tiny", "--point", "0.5", "--out", tmp_path / out, "--set", *sides)
        return yaml.safe_load((tmp_path / out / "README.md").read_text("utf-8").split("---")[1])

    assert header("same")["license"] == "apache-2.0"
    (pair["thinking"] / "README.md").write_text("---\nlicense: mit\n---\n", "utf-8")
    assert "license" not in header("other")
