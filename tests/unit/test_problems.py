"""Problems and grades."""

import sys
import types

import pytest

from thinkswitch import problems
from thinkswitch.errors import UserError
from thinkswitch.grading import boxed, final_answer, grade
from thinkswitch.preset import Preset
from thinkswitch.problems import Problem

GRADES = [  # kind, right answer, response, is it right
    ("integer", "25", r"\boxed{25}", True),
    ("integer", "25", r"\boxed{025}", True),
    ("integer", "204", r"so it is \boxed{204.0}", True),
    ("integer", "1000", r"\boxed{1,000}", True),
    ("integer", "1000", r"\boxed{1{,}000}", True),
    ("integer", "60", r"\boxed{\text{60}}", True),
    ("integer", "113", r"\boxed{113^\circ}", True),
    ("integer", "113", r"\boxed{113^{\circ}}", True),
    ("integer", "33", r"\boxed{33\text{ units}}", True),
    ("integer", "601", r"\boxed{m+n=601}", True),
    ("integer", "-4", r"\boxed{-4}", True),
    ("integer", "7", r"\boxed{5} no, \boxed{7}", True),
    ("integer", "5", r"\boxed{5} no, \boxed{7}", False),
    ("integer", "5", r"\boxed{5} or \boxed{7", True),  # the last complete box
    ("integer", "540", "the answer is 540", False),  # no box: a text cut short could be right by luck
    ("integer", "540", r"\boxed{540", False),
    ("integer", "2", r"\boxed{\frac{4}{2}}", False),
    ("integer", "1", r"\boxed{}", False),
    ("integer", "12", r"\boxed{1,2}", False),
    ("integer", "34", r"\boxed{3 \text{ and } 4}", False),  # two answers are none
    ("integer", "12", r"\boxed{1 2}", False),
    ("integer", "12", r"\boxed{\$12}", True),
    ("integer", "12", r"\boxed{12\%}", True),
    ("integer", "12", r"\boxed{{12}}", True),
    ("integer", "12", r"\boxed{12 cm}", True),
    ("integer", "-5", "\\boxed{\u22125}", True),
    ("integer", "1000", r"\boxed{1\,000}", True),
    ("integer", "3", "\\boxed{" + "3" * 5000 + "}", False),  # int() refuses so many digits; a run died of it, and of it again at each resume
    ("choice", "yes", r"\boxed{yes}", True),
    ("choice", "yes", r"\boxed{\text {yes}}", True),
    ("choice", "yes", "Yes. In conclusion no adverse effect was seen.", True),
    ("choice", "maybe", "Maybe. We cannot answer no or yes.", True),
    ("choice", "yes", "The answer to the question is yes.", True),
    ("choice", "no", "The correct answer would be no", True),
    ("choice", "no", "The answer is no-brainer", False),
    ("choice", "yes", "The answer is yes or no, depending", False),
    ("choice", "yes", r"\boxed{\text{Yes}}", True),
    ("choice", "no", "No.", True),
    ("choice", "maybe", "**Maybe**, since the sample is small.", True),
    ("choice", "no", "There is no effect on yes-sayers. The answer is no.", True),
    ("choice", "yes", "There is no effect. Final answer: **yes**", True),
    ("choice", "no", "There is no effect", False),  # commits to nothing
    ("choice", "no", "Nobody knows", False),
    ("choice", "no", r"\boxed{yes} The answer is no", False),  # a box wins
    ("math", r"\frac{1}{2}", r"\boxed{\frac{1}{2}}", True),
    ("math", r"\frac{1}{2}", r"\boxed{0.5}", True),
    ("math", "2^{10}", r"\boxed{1024}", True),
    ("math", "3", r"\boxed{4}", False),
    ("text", "Paris", " Paris\n", True),
    ("text", "Paris", "paris is it", False),
]


@pytest.mark.parametrize("kind, right, response, verdict", GRADES)
def test_grade(kind, right, response, verdict):
    assert grade(response, right, kind) is verdict


@pytest.mark.parametrize("text, inside", [
    (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"), (r"\boxed {x}", "x"), (r"\fbox{3}", "3"), (r"\boxed{a{b}", None), ("none", None)])
def test_boxed(text, inside):
    assert boxed(text) == inside


def test_maths_that_never_ends_is_wrong_not_endless():
    assert final_answer(r"\boxed{9^{9^{9^9}}}", "math")
    assert grade(r"\boxed{9^{9^{9^9}}}", "3", "math") is False


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("lines, says", [
    (['{"prompt": "a"}', "", '{"prompt": '], "line 3 is not JSON"),
    (['{"prompt": "a"}', "[1]"], "line 2 is a list"),
    (['{"question": "a"}'], "line 1: the prompt template"),
    (['{"prompt": " "}'], "line 1: the prompt is empty"),
    (['{"prompt": "a", "answer": "perhaps", "kind": "choice"}'], "line 1: the answer 'perhaps'"),
    (['{"prompt": "a", "answer": "1.5", "kind": "integer"}'], "line 1: the answer '1.5'"),
    (['{"prompt": "a", "kind": "essay"}'], "line 1: unknown kind"),
    (['{"prompt": null}'], "line 1: the prompt template"),
    (['{"prompt": "x \\ud800"}'], "line 1: the prompt template"),
    (['{"prompt": "a", "answer": %s}' % ("1" * 5000)], "line 1 is not JSON"),
    ([""], "holds no problems"),
])
def test_malformed_jsonl_is_refused_with_its_line(tmp_path, lines, says):
    with pytest.raises(UserError, match=says):
        problems.load(write(tmp_path / "p.jsonl", *lines))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        problems.load(str(tmp_path / "none.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        problems.load(str(tmp_path / "b.jsonl"))


def preset_of(tmp_path, train, held, **knobs) -> Preset:
    return Preset(train_set=write(tmp_path / "t.jsonl", *('{"prompt": "%s"}' % p for p in train)),
                  held_out_set=write(tmp_path / "h.jsonl", *('{"prompt": "%s", "answer": "1"}' % p for p in held)), **knobs)


def test_overlap_is_refused_whatever_the_spacing(tmp_path):
    with pytest.raises(UserError, match="1 held-out problems are also training prompts"):
        problems.train_and_held_out(preset_of(tmp_path, ["a", "What  is 1?"], ["what is 1?"], prompts=2, held_out=1))


def test_a_null_answer_is_no_answer(tmp_path):
    held = write(tmp_path / "h.jsonl", '{"prompt": "a", "answer": null}')
    with pytest.raises(UserError, match="1 held-out problems .* have no 'answer'"):
        problems.train_and_held_out(Preset(train_set=write(tmp_path / "t.jsonl", '{"prompt": "b"}'), held_out_set=held, prompts=1, held_out=1))


def test_too_few_are_refused(tmp_path):
    with pytest.raises(UserError, match="6 training prompts are needed .2 prompts x 3 rounds, fresh"):
        problems.train_and_held_out(preset_of(tmp_path, "abcde", "xyz", prompts=2, held_out=3, fresh=True))
    with pytest.raises(UserError, match="held_out asks for 4"):
        problems.train_and_held_out(preset_of(tmp_path, "abcde", "xyz", prompts=2, held_out=4))


def test_fresh_rounds_share_no_prompt_and_stale_ones_share_all(tmp_path):
    preset = preset_of(tmp_path, "abcdef", "xyz", prompts=2, held_out=3, fresh=True)
    train, held = problems.train_and_held_out(preset)
    rounds = [{p.prompt for p in problems.round_prompts(train, preset, r)} for r in (1, 2, 3)]
    assert set().union(*rounds) == set("abcdef") and all(len(r) == 2 for r in rounds)
    assert (train, held) == problems.train_and_held_out(preset)  # seeded
    stale = preset_of(tmp_path, "abcdef", "xyz", prompts=2, held_out=3)
    train, _ = problems.train_and_held_out(stale)
    assert problems.round_prompts(train, stale, 1) == problems.round_prompts(train, stale, 3)


def test_one_set_for_both_is_split(tmp_path):
    both = write(tmp_path / "b.jsonl", *('{"prompt": "%d", "answer": "1"}' % i for i in range(10)))
    train, held = problems.train_and_held_out(Preset(train_set=both, held_out_set=both, prompts=6, held_out=4))
    assert len({p.prompt for p in train + held}) == 10


def test_hub_sets_by_id_config_and_split(monkeypatch):
    """PubMedQA's schema: the context is a dict holding a list of paragraphs."""
    asked = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        return [{"question": "Q?", "context": {"contexts": ["One.", "Two."]}, "final_decision": "maybe"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    [problem] = problems.load("qiaojin/PubMedQA/pqa_labeled:train", "{context[contexts]}\n{question}", "final_decision", "choice")
    assert problem == Problem("One.\nTwo.\nQ?", "maybe", "choice")
    assert asked == [("qiaojin/PubMedQA", "pqa_labeled", "train")]


def test_hub_troubles_are_one_sentence(monkeypatch):
    def load_dataset(*names, split):
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match="a/b:test could not be loaded: it is not in the cache, and the Hub cannot be reached .*$"):
        problems.load("a/b:test")
    with pytest.raises(UserError, match="neither an existing JSONL file nor a Hub data set"):
        problems.load("a/b")
