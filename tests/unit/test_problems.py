"""Problems: read from files and the Hub, drawn by seed, never both trained on and scored."""

import json
import sys
import types

import pytest

from thinkswitch import problems
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset
from thinkswitch.problems import Problem


def write(path, *rows: dict | str) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def preset_of(folder, train, held, **settings) -> Preset:
    """A preset of these training prompts and these held-out ones; every answer is 1."""
    return Preset(
        train_set=write(folder / "t.jsonl", *(dict(prompt=p) for p in train)),
        held_out_set=write(folder / "h.jsonl", *(dict(prompt=p, answer="1") for p in held)),
        **settings,
    )


# ---- reading


MALFORMED = {
    '{"prompt": "a"}\n\n{"prompt": ': "line 3 is not JSON",
    '{"prompt": "a"}\n[1]': "line 2 is a list",
    '{"topic": "a"}': "line 1: the prompt template '{prompt}' asks for 'prompt', the row has topic",
    '{"prompt": " "}': "line 1: the prompt is empty",
    '{"prompt": "a", "answer": "perhaps", "kind": "choice"}': "'perhaps' is not yes, no or maybe",
    '{"prompt": "a", "answer": "1.5", "kind": "integer"}': "line 1: the answer '1.5' is not an integer",
    '{"prompt": "a", "kind": "essay"}': "line 1: unknown kind 'essay'; known are integer",
    '{"prompt": "a", "kind": {"a": 1}}': "line 1: unknown kind {'a': 1}; known are integer",
    '{"prompt": "a", "kind": ["integer"]}': "line 1: unknown kind .'integer'.; known are integer",
    '{"prompt": null}': "line 1: the prompt template",
    '{"prompt": "x \\ud800"}': "line 1: the prompt template",
    '{"prompt": "a", "answer": ' + "1" * 5000 + "}": "line 1 is not JSON",  # int() refuses so many digits
    "": "holds no problems",
}


@pytest.mark.parametrize("text, message", MALFORMED.items(), ids=MALFORMED.values())
def test_malformed_jsonl_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        problems.load(write(tmp_path / "p.jsonl", text))


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        problems.load(str(tmp_path / "none.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as UTF-16 text"):
        problems.load(str(tmp_path / "b.jsonl"))


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path):
    source = write(tmp_path / "p.jsonl", '{"prompt": "a\u2028b\x0cc"}'.replace("\x0c", " "))
    assert [p.prompt for p in problems.load(source)] == ["a\u2028b c"]


def test_a_row_s_own_kind_goes_before_the_preset_s(tmp_path):
    rows = [dict(prompt="a", answer=3, kind="integer"), dict(prompt="b", answer=" x ")]
    assert problems.load(write(tmp_path / "p.jsonl", *rows), kind="math") == [
        Problem("a", "3", "integer"),
        Problem("b", "x", "math"),
    ]


def test_hub_sets_are_named_by_id_configuration_and_split(monkeypatch):
    """PubMedQA's schema: the context is a dict that holds a list of paragraphs."""
    asked = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        return [{"question": "Q?", "context": {"contexts": ["One.", "Two."]}, "final_decision": "maybe"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    template = "{context[contexts]}\n{question}"
    [problem] = problems.load("qiaojin/PubMedQA/pqa_labeled:train", template, "final_decision", "choice")
    assert problem == Problem("One.\nTwo.\nQ?", "maybe", "choice")
    assert asked == [("qiaojin/PubMedQA", "pqa_labeled", "train")]


@pytest.mark.parametrize(
    "train, held_out, splits, expected",
    [
        ("a/b", "a/b", ["train", "test"], ("a/b:train", "a/b:test")),
        ("a/b", "a/b", ["test", "train", "validation"], ("a/b:train", "a/b:test")),
        ("a/b", "a/b", ["train", "validation"], ("a/b:train", "a/b:validation")),
        ("a/b", "a/b", ["train"], ("a/b:train", "a/b:train")),  # one set for both: it is divided
        ("a/b/c", "a/b:test", ["train", "dev"], ("a/b/c:train", "a/b:test")),
        ("a/b", "a/b/c", ["questions"], ("a/b:questions", "a/b/c:questions")),
        ("x.jsonl", "a/b", ["train", "test"], ("x.jsonl", "a/b:test")),
    ],
)
def test_a_hub_set_without_a_split_is_trained_on_train_and_scored_on_test(
    monkeypatch, train, held_out, splits, expected
):
    """CASES 3: `owner/name` was refused as "neither an existing file nor a Hub data set"."""
    asked = []

    def get_dataset_split_names(*names):
        asked.append(names)
        return splits

    fake = types.SimpleNamespace(get_dataset_split_names=get_dataset_split_names)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    named = problems.with_splits(Preset(train_set=train, held_out_set=held_out))
    assert (named.train_set, named.held_out_set) == expected
    assert set(asked) <= {("a/b",), ("a/b", "c")}


def test_splits_that_have_other_names_are_listed(monkeypatch):
    fake = types.SimpleNamespace(get_dataset_split_names=lambda *names: ["easy", "hard"])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(UserError, match=r"^a/b has the splits easy, hard; write one of them: a/b:easy$"):
        problems.with_split("a/b", problems.TRAIN_SPLITS)


class DatasetNotFoundError(FileNotFoundError):
    """Known by its name, since `datasets` takes seconds to import."""


def generation_failed(cause: str) -> Exception:
    error = RuntimeError("An error occurred while generating the dataset")
    error.__cause__ = OSError(cause)
    return error


HUB_ERRORS = {  # what `datasets` raises -> our sentence, whole; HF_HUB_OFFLINE is set in tests
    ConnectionError("no route\nto host"): (
        "the data set a/b:test could not be loaded: it is not in the cache, and the Hub cannot be reached "
        "(HF_HUB_OFFLINE is set); unset it"
    ),
    DatasetNotFoundError("Dataset 'a/b' doesn't exist"): (
        "the Hub has no data set a/b, or none for you; "
        "check the spelling, or `hf auth login` if it is private"
    ),
    ValueError("Unknown split \"test\". Should be one of ['train']."): (
        "the data set a/b:test could not be loaded: Unknown split \"test\". Should be one of ['train']; "
        "write owner/name:split or owner/name/config:split"
    ),
    ValueError("Config name is missing. Available: ['x']\nExample of usage: `load_dataset(...)`"): (
        "the data set a/b:test could not be loaded: Config name is missing. Available: ['x']; "
        "write owner/name:split or owner/name/config:split"
    ),
    generation_failed("No space left on device"): (
        "the data set a/b:test could not be loaded: An error occurred while generating the dataset "
        "(No space left on device)"
    ),
    RuntimeError(): "the data set a/b:test could not be loaded: RuntimeError",
}


@pytest.mark.parametrize("error", HUB_ERRORS, ids=lambda e: str(e)[:20])
def test_hub_errors_become_one_sentence(monkeypatch, error):
    def load_dataset(*names, split):
        raise error

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError) as refused:
        problems.load("a/b:test")
    assert str(refused.value) == HUB_ERRORS[error]


def test_a_file_that_is_not_there_may_look_like_a_hub_set():
    """Without a split both are `folder/name`."""
    message = problems.dataset_error_message("data/train", DatasetNotFoundError("Dataset doesn't exist"))
    assert message.startswith("there is no file data/train, and the Hub has no data set data/train")
    for source in ("x\0y", "a" * 5000, f"{'a' * 5000}/b/c/d"):
        with pytest.raises(UserError, match="neither an existing file nor a Hub data set"):
            problems.load(source)


def test_a_gated_set_says_where_to_ask():
    message = problems.dataset_error_message(
        "a/b:test", DatasetNotFoundError("Dataset 'a/b' is a gated dataset")
    )
    assert message.startswith("the data set a/b is gated: ask for access at https://")
    assert message.endswith("/datasets/a/b, then `hf auth login`")


def test_without_a_connection_the_cause_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    message = problems.dataset_error_message("a/b:test", ConnectionError("no route\nto host"))
    assert message.endswith("the Hub cannot be reached (no route to host); check the name and the network")


@pytest.mark.parametrize("source", ["a/b", "a:train", "a/b/c/d:train", "a//b:train", ":train", "a/b:"])
def test_what_is_neither_a_file_nor_a_hub_set_is_refused(source):
    with pytest.raises(
        UserError, match="neither an existing file nor a Hub data set; write owner/name:split"
    ):
        problems.load(source)


# ---- choosing


def test_an_overlap_is_refused_whatever_the_spacing(tmp_path):
    preset = preset_of(tmp_path, ["a", "What  is 1?"], ["what is 1?"], prompts=2, held_out=1)
    with pytest.raises(UserError, match="1 held-out problems are also training prompts"):
        problems.train_and_held_out(preset)


def test_a_null_answer_is_no_answer(tmp_path):
    held = write(tmp_path / "h.jsonl", dict(prompt="a", answer=None))
    train = write(tmp_path / "t.jsonl", dict(prompt="b"))
    with pytest.raises(UserError, match=r"1 held-out problems .* have no 'answer'"):
        problems.train_and_held_out(Preset(train_set=train, held_out_set=held, prompts=1, held_out=1))


def test_too_few_problems_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"6 training prompts are needed \(2 prompts x 3 rounds, fresh\), .* has 5"
    ):
        problems.train_and_held_out(preset_of(tmp_path, "abcde", "xyz", prompts=2, held_out=3, fresh=True))
    with pytest.raises(UserError, match=r"6 training prompts are needed, .* has 5; lower prompts$"):
        problems.train_and_held_out(preset_of(tmp_path, "abcde", "xyz", prompts=6, held_out=3))
    with pytest.raises(UserError, match="held_out asks for 4"):
        problems.train_and_held_out(preset_of(tmp_path, "abcde", "xyz", prompts=2, held_out=4))


def test_a_prompt_that_occurs_twice_counts_once(tmp_path):
    preset = preset_of(tmp_path, ["a", "A ", "b"], ["x", " X"], prompts=3, held_out=1)
    assert len(problems.held_out(preset)) == 1
    with pytest.raises(UserError, match="has 2; lower prompts"):
        problems.train_and_held_out(preset)


def test_fresh_rounds_share_no_prompt_and_others_share_all(tmp_path):
    fresh = preset_of(tmp_path, "abcdef", "xyz", prompts=2, held_out=3, fresh=True)
    train, held = problems.train_and_held_out(fresh)
    rounds = [{p.prompt for p in problems.round_prompts(train, fresh, number)} for number in (1, 2, 3)]
    assert set().union(*rounds) == set("abcdef")
    assert all(len(prompts) == 2 for prompts in rounds)
    assert (train, held) == problems.train_and_held_out(fresh)  # seeded
    repeated = preset_of(tmp_path, "abcdef", "xyz", prompts=2, held_out=3)
    train, _ = problems.train_and_held_out(repeated)
    assert problems.round_prompts(train, repeated, 1) == problems.round_prompts(train, repeated, 3)


def test_a_draw_does_not_change_between_versions(tmp_path):
    """Resumed runs and their scores rely on it."""
    train, held = problems.train_and_held_out(
        preset_of(tmp_path, "abcdefgh", "stuvwxyz", prompts=4, held_out=4)
    )
    assert "".join(p.prompt for p in train) == "gadc"
    assert "".join(p.prompt for p in held) == "utzv"


def test_one_set_for_both_is_divided(tmp_path):
    both = write(tmp_path / "b.jsonl", *(dict(prompt=str(i), answer="1") for i in range(10)))
    preset = Preset(train_set=both, held_out_set=both, prompts=6, held_out=4)
    train, held = problems.train_and_held_out(preset)
    assert len({p.prompt for p in train + held}) == 10
    assert held == problems.held_out(preset)
