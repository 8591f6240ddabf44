"""CASES 1: tokenizers as people have them: undeclared ends of turns, tokens unused or without weights."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from conftest import byte_tokenizer
from thinkswitch.cli.main import main
from thinkswitch.distil import make_example
from thinkswitch.errors import UserError
from thinkswitch.generate import Row, generate
from thinkswitch.rounds import start
from thinkswitch.sampler import Sampling
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.pair import open_pair
from thinkswitch.weights.pair_report import report_of
from thinkswitch.weights.tokenizer import read_tokenizer
from unit.export_helpers import export


@pytest.fixture
def copied(folders, tmp_path) -> list[Path]:
    return [Path(shutil.copytree(folder, tmp_path / Path(folder).name)) for folder in folders("qwen3")]


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


# ---- the end of a turn

CHAT = (
    "{% for m in messages %}{% if m.role == 'user' %}USER{{ m.content }}{% else %}ASSISTANT{{ m.content }}END"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT{% endif %}"
)
# what stands before a question, before an answer and after it; added special tokens; the eos of the vendor
TURNS = {
    "chatml": ("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n", "<|endoftext|>"),
    "llama 3": ("<|user_id|>\n\n", "<|assistant_id|>\n\n", "<|eot_id|>", "<|end_of_text|>"),
    "gemma": ("<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n", "<eos>"),
    "phi": ("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
    "next turn": ("<|user|>\n", "<|assistant|>\n", "", "<|endoftext|>"),
    "mistral": ("[INST]", "[/INST]", "</s>", "</s>"),
    "after a tag": ("<|user|>", "<|assistant|><answer>", "</answer><|eos|>", "<|eos|>"),
    "eos after another": ("<|user|>", "<|assistant|>", "<|end|><|endoftext|>", "<|endoftext|>"),
    "plain text": ("\n### Human: ", "\n### Assistant: ", "\n", "<|endoftext|>"),
    "not in the vocabulary": ("User: ", "Bot: ", "<|im_end|>", "<|endoftext|>"),
}
ENDS = {  # the token that ends a turn
    "chatml": "<|im_end|>",
    "llama 3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "phi": "<|end|>",
    "next turn": "<|user|>",
    "mistral": "</s>",
    "after a tag": "<|eos|>",
    "eos after another": "<|endoftext|>",
    "plain text": None,
    "not in the vocabulary": None,
}
SPECIAL = ["<|user|>", "<|assistant|>", "<|end|>", "<|eot_id|>", "<end_of_turn>", "[INST]", "<|im_end|>"]
WITH_TOKENS = set(TURNS) - {"not in the vocabulary"}


def write_turns(folder: Path, kind: str) -> None:
    """A checkpoint without generation_config whose config and tokenizer declare the vendor's eos alone."""
    user, assistant, end, eos = TURNS[kind]
    tokenizer = byte_tokenizer()
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["added_tokens"] = []
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(core)), eos_token=eos)
    written = [token for token in SPECIAL if token in user + assistant + end and token != eos]
    bare.add_special_tokens({"additional_special_tokens": written if kind in WITH_TOKENS else []})
    bare.add_tokens([tag for tag in ("<answer>", "</answer>") if tag in assistant + end])
    template = CHAT.replace("USER", user).replace("ASSISTANT", assistant).replace("END", end)
    bare.chat_template = template
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (folder / file).unlink()
    bare.save_pretrained(folder)
    edit(folder / "config.json", eos_token_id=bare.eos_token_id)


@pytest.mark.parametrize("kind", TURNS)
def test_the_end_of_a_turn_is_read_off_the_template(copied, kind):
    """llama-cookbook 640, vllm 4180: answers went on for a hundred more ends of turns."""
    for folder in copied:
        write_turns(folder, kind)
    pair = open_pair(*map(str, copied))
    tokenizer = pair.instruct.tokenizer
    end = ENDS[kind] or TURNS[kind][3]
    number = tokenizer.convert_tokens_to_ids(end)
    assert pair.instruct.turn_end == number
    assert pair.instruct.stop_token_ids == {number, tokenizer.eos_token_id}
    assert make_example(pair.instruct, "?", "Yes.").answer == (*tokenizer.encode("Yes."), number)
    odd = [remark for remark in report_of(pair).odd if remark.startswith("instruct")]
    assert "no generation_config.json" in odd[0]
    if ENDS[kind] is None:
        assert f"with no token of its own; answers end at '{end}'" in odd[1]
    elif end != TURNS[kind][3]:
        assert f"ends a turn with '{end}', which is declared nowhere" in odd[1]
    else:
        assert odd[1:] == []


@pytest.mark.parametrize("kept", [True, False], ids=["with generation_config", "without"])
@pytest.mark.parametrize("kind", ["chatml", "llama 3", "mistral"])
def test_an_export_declares_the_end_that_only_its_template_shows(copied, tmp_path, kind, kept):
    for folder in copied:
        write_turns(folder, kind)
        if kept:
            eos = json.loads((folder / "config.json").read_text("utf-8"))["eos_token_id"]
            values = {"temperature": 0.6, "do_sample": True, "eos_token_id": eos}
            (folder / "generation_config.json").write_text(json.dumps(values), "utf-8")
    pair = open_pair(*map(str, copied))
    export(pair, start(pair), 0.5, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = model.generation_config.eos_token_id
    assert set(ids if isinstance(ids, list) else [ids]) == pair.instruct.stop_token_ids
    assert model.generation_config.temperature == (0.6 if kept else None)


def test_declared_ends_need_no_remark(folders):
    assert report_of(open_pair(*folders("qwen3"))).odd == ()


# ---- tokens that only one side has


def add(folder: Path, *tokens: str, special: bool = False, **changes) -> None:
    """Add tokens to a tokenizer, beyond the 263 that have weights."""
    tokenizer = byte_tokenizer("<think>\n" if folder.name == "thinking" else "")
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    for key, value in changes.items():
        setattr(tokenizer, key, value)
    tokenizer.save_pretrained(folder)


EXTRA = {
    "pad": dict(tokens=["<|PAD_TOKEN|>"], pad_token="<|PAD_TOKEN|>"),
    "tool tag": dict(tokens=["<tool_response>"]),
    "several": dict(tokens=["<a>", "<b>", "<c>", "<d>"]),
    "special": dict(tokens=["<|reserved_0|>"], special=True),
    "in two words": dict(tokens=["image patch"]),
    "another script": dict(tokens=["◁image▷"]),
}


@pytest.mark.parametrize("side", [0, 1], ids=["instruct", "thinking"])
@pytest.mark.parametrize("kind", EXTRA)
def test_a_token_that_nobody_uses_is_a_remark(copied, kind, side):
    """unsloth 3444, open-instruct 124: a pad token of training was refused as another vocabulary."""
    add(copied[side], *EXTRA[kind]["tokens"], **{k: v for k, v in EXTRA[kind].items() if k != "tokens"})
    for folder in copied:
        edit(folder / "config.json", vocab_size=263)
    report = report_of(open_pair(*map(str, copied)))
    count = len(EXTRA[kind]["tokens"])
    assert f"the tokenizers differ in {count} added tokens that no template, tag or system" in report.odd[0]
    assert repr(sorted(EXTRA[kind]["tokens"])[0]) in report.odd[0]


USED = {
    "in the template": dict(tokens=["<|tools|>"], chat_template=byte_tokenizer().chat_template + "<|tools|>"),
    "the end of answers": dict(tokens=["<|eot|>"], eos_token="<|eot|>"),
    "the beginning of texts": dict(tokens=["<|bos|>"], bos_token="<|bos|>"),
    "in the template's text": dict(tokens=["assistant"]),
    "a tag": dict(tokens=["<thought>"]),
}


@pytest.mark.parametrize("kind", USED)
def test_a_token_that_is_used_is_an_obstacle(copied, kind):
    add(copied[1], *USED[kind]["tokens"], **{k: v for k, v in USED[kind].items() if k != "tokens"})
    tags = 'think_tags=["<thought>", "</thought>"]' if kind == "a tag" else "think_tags=auto"
    assert main(["check", *map(str, copied), "--set", tags]) == 1


def test_an_ordinary_token_more_is_another_vocabulary(copied):
    """It may be part of any text."""
    path = copied[1] / "tokenizer.json"
    values = json.loads(path.read_text("utf-8"))
    values["model"]["vocab"]["ab"] = 300
    values["model"]["merges"] = [["a", "b"]]
    path.write_text(json.dumps(values), "utf-8")
    with pytest.raises(UserError, match=r"the tokenizers differ in \d+ tokens"):
        open_pair(*map(str, copied))


# ---- tokens without weights


def test_a_prompt_with_a_token_that_has_no_weights(copied):
    """mergekit 342: an index error deep inside of the embedding."""
    for folder in copied:
        add(folder, "<image>")
    pair = open_pair(*map(str, copied))
    for role, remark in zip(("instruct", "thinking"), report_of(pair).odd, strict=True):
        assert remark.startswith(f"{role}: 1 tokens have no row in the embedding ('<image>')")
    assert pair.instruct.prompt_ids("no picture")
    with pytest.raises(UserError, match="has no weights for the token '<image>', which the prompt holds"):
        pair.instruct.prompt_ids("this one: <image>")


@pytest.mark.parametrize("number", [263, 300, 151_643, None, -1, 0])
def test_a_pad_token_beyond_the_embedding_does_no_harm(copied, number):
    """LlamaFactory 1206: torch refused to make the model; and a padded batch read a row that is not there."""
    for folder in copied:
        add(folder, "<pad>", pad_token="<pad>")
        edit(folder / "config.json", pad_token_id=number)
    pair = open_pair(*map(str, copied))
    point = start(pair).instruct
    prompts = ("7?", "What is 3 + 4?")
    rows = [
        Row(tuple(pair.instruct.prompt_ids(p)), Sampling(max_new_tokens=3), recipe=point) for p in prompts
    ]
    both = generate(Blend(pair), pair.instruct.tokenizer, rows, set(), stream=False)
    together = {chunk.row: chunk.text for chunk in both}
    alone = generate(Blend(pair), pair.instruct.tokenizer, rows[:1], set(), stream=False)
    assert [chunk.text for chunk in alone] == [together[0]] and len(together) == 2


TOKENS = {
    "template": dict(chat_template=byte_tokenizer().chat_template + "<image>"),
    "system prompt": {},
    "tags": {},
}
SETTINGS = {
    "system prompt": 'instruct_system="An <image> is here."',
    "tags": 'think_tags=["<image>", "</t>"]',
}


@pytest.mark.parametrize("where", TOKENS)
def test_a_token_without_weights_in_every_prompt_stops(copied, where, capsys):
    for folder in copied:
        add(folder, "<image>", **TOKENS[where])
    if where == "system prompt":
        for folder in copied:
            (folder / "chat_template.jinja").write_text(byte_tokenizer().chat_template, "utf-8")
    assert main(["check", *map(str, copied), "--set", SETTINGS.get(where, "think_tags=auto")]) == 1
    said = capsys.readouterr().err
    assert "writes tokens that have no row in the embedding ('<image>')" in said


# ---- text


def words_tokenizer(folder: Path, **settings) -> None:
    """Words with their spaces, as Unigram and WordPiece vocabularies have them."""
    words = ["▁Yes", "▁,", "▁it", "▁'s", "▁.", "▁do", "▁n't", "▁?", "▁!", "▁we", "▁'re", "<unk>"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<unk>", **settings).save_pretrained(folder)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(
    "text", ["▁Yes ▁,", "▁it ▁'s", "▁do ▁n't", "▁we ▁'re", "▁Yes ▁?", "▁Yes ▁!", "▁it ▁."]
)
def test_text_is_what_the_tokens_spell(tmp_path, text, asked):
    """transformers 44914: ` ,` became `,`, and a text was no longer the sum of its parts."""
    words_tokenizer(tmp_path, clean_up_tokenization_spaces=asked)
    tokenizer = read_tokenizer("test", tmp_path)
    ids = tokenizer.convert_tokens_to_ids(text.split(" "))
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("asked", [True, False])
def test_text_grows_by_what_its_tokens_spell(copied, asked):
    for folder in copied:
        edit(folder / "tokenizer_config.json", clean_up_tokenization_spaces=asked)
    pair = open_pair(*map(str, copied))
    text = "Yes , it 's . We do n't ! Naïve ½"
    tokenizer = pair.instruct.tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_json_has_the_three_parts(copied, capsys):
    add(copied[1], "<image>")
    assert main(["check", *map(str, copied), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["is", "odd", "stops"] and report["stops"] == []
    assert report["is"]["architecture"] == "qwen3, 2 layers, hidden 64"
    assert "('<image>')" in report["odd"][0]
    (copied[0] / "config.json").unlink()
    assert main(["check", *map(str, copied), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["is"] == {} and "no config.json" in report["stops"][0]


# ---- templates that never end


@pytest.mark.parametrize(
    "piece",
    ["{{ 10 ** 99999999 }}", "{% set n = 9**9**9 %}", "{{ (2)**x }}", "{% if 2 ** 99 > 1 %}{% endif %}"],
)
def test_a_template_that_computes_a_power_is_refused_before_it_is_read(copied, piece):
    """The fuzzer's find: 10 ** 99999999 held `export` for a minute and more."""
    path = copied[1] / "chat_template.jinja"
    path.write_text(path.read_text("utf-8") + piece, "utf-8")
    with pytest.raises(UserError, match="its chat template raises a number to a power"):
        open_pair(*copied)


@pytest.mark.parametrize(
    "piece",
    ["**bold** 2**3", "{{ '2 ** 3' }}", "{{ namespace(**{}) and '' }}", "{{ dict(a=1, **{}) and '' }}"],
)
def test_two_stars_that_are_no_power_are_left_alone(copied, piece):
    for folder in copied:
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text("utf-8") + piece, "utf-8")
    open_pair(*copied)
