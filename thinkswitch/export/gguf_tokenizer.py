"""A checkpoint's tokenizer as the keys of a GGUF file.

llama.cpp splits text into words by one of its own rules, which the file names. A wrong name gives other token
ids without a word. So each rule is tried here, with the checkpoint's vocabulary, against the checkpoint.
"""

import json
from dataclasses import dataclass

import gguf
from gguf import TokenType
from tokenizers import Tokenizer

from thinkswitch.errors import UserError
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.tokenizer import PROBE

LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
SIGNS_AND_SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ENDINGS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"

# what every rule must get right
QUESTIONS = ("What is 7 + 5 - 3 + 8?", "Is 51 a prime number? Answer yes or no.")
TEXTS = (  # in which the rules differ: digits, contractions, lines, spaces, signs, other scripts
    PROBE,
    "Tom has 23 pens; he BUYS 4 bags.\n\nHow many are there?\n- one\n- two",
    "<think>\n7 + 5 = 12\n</think>\n\n\\boxed{12}",
    "def f(x):\n    return x  # 100%",
    "She's sure IT'S WE'LL don't I'M\tx  y   z \n \n\n  end ",
    "3.14159 1,000,000 007 1234567 ½ ² ٣",
    "Ünïcödé 中文字符 русский ελληνικά हिन्दी 🙂👍🏽",
    "a_b--c...d!!?? (e) [f] {g} <h> $i^2$ \\frac{1}{2}",
)


@dataclass(frozen=True)
class Rule:
    """How llama.cpp splits text: patterns one after the other; the name is what the file says."""

    name: str
    patterns: tuple[str, ...]
    whole_words: bool = False  # a word that is a token is not put together by merges


RULES = (
    Rule("qwen2", (rf"{ENDINGS}|{LETTERS}|\p{{N}}|{SIGNS_AND_SPACE}",)),
    Rule("llama-bpe", (rf"{ENDINGS}|{LETTERS}|\p{{N}}{{1,3}}|{SIGNS_AND_SPACE}",), whole_words=True),
    Rule("smollm", (r"\p{N}", GPT_2)),
    Rule("gpt-2", (GPT_2,)),
)


@dataclass(frozen=True)
class FoundRule:
    """A rule that gives the checkpoint's token ids in all texts, or at least in questions."""

    name: str
    exact: bool = True


def find_rule(checkpoint: Checkpoint) -> FoundRule:
    """The rule under which llama.cpp reads text as the checkpoint does; a UserError where there is none."""
    data = byte_level_data(checkpoint)
    inexact = None
    questions = tuple(checkpoint.render(question) for question in QUESTIONS)
    for rule in RULES:
        tokenizer = emulated(data, rule)
        if not same_ids(checkpoint, tokenizer, questions):
            continue
        if same_ids(checkpoint, tokenizer, TEXTS):
            return FoundRule(rule.name)
        inexact = inexact or FoundRule(rule.name, exact=False)
    if inexact:
        return inexact
    raise UserError(
        f"the tokenizer of {checkpoint.name} splits text in a way that is none of those of llama.cpp known "
        f"here ({', '.join(rule.name for rule in RULES)}), so a GGUF file would read prompts wrongly; "
        "export a Hugging Face folder"
    )


def byte_level_data(checkpoint: Checkpoint) -> dict:
    """The tokenizer as JSON; a UserError unless it is byte-level BPE."""
    backend = getattr(checkpoint.tokenizer, "backend_tokenizer", None)
    data = json.loads(backend.to_str()) if backend is not None else {}
    model = data.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback") or "ByteLevel" not in json.dumps(data):
        raise UserError(
            f"the tokenizer of {checkpoint.name} is not byte-level BPE, and GGUF export knows no other; "
            "export a Hugging Face folder, and convert that with llama.cpp"
        )
    if not model["merges"]:
        raise UserError(
            f"the tokenizer of {checkpoint.name} has no merges, without which llama.cpp refuses a file"
        )
    return data


def emulated(data: dict, rule: Rule) -> Tokenizer:
    """The checkpoint's vocabulary and merges under a rule of llama.cpp."""
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in rule.patterns
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    changed = {
        **data,
        "model": {**data["model"], "ignore_merges": rule.whole_words},
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": None,
    }
    return Tokenizer.from_str(json.dumps(changed))


def same_ids(checkpoint: Checkpoint, tokenizer: Tokenizer, texts: tuple[str, ...]) -> bool:
    for text in texts:
        ours = checkpoint.tokenizer.encode(text, add_special_tokens=False)
        if tokenizer.encode(text, add_special_tokens=False).ids != ours:
            return False
    return True


# ---- keys


def add_tokenizer_keys(writer: gguf.GGUFWriter, checkpoint: Checkpoint, rows: int) -> None:
    """Vocabulary, merges, special tokens, chat template. `rows`: of the embedding, each needs a text."""
    tokens, types = vocabulary(checkpoint, rows)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(find_rule(checkpoint).name)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges(byte_level_data(checkpoint)))
    tokenizer = checkpoint.tokenizer
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(begins_with_bos(checkpoint))
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if checkpoint.turn_end != tokenizer.eos_token_id:
        writer.add_eot_token_id(checkpoint.turn_end)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(chat_template(checkpoint))


def vocabulary(checkpoint: Checkpoint, rows: int) -> tuple[list[str], list[TokenType]]:
    """The text and type of every row of the embedding. llama.cpp wants as many, and all different."""
    tokenizer = checkpoint.tokenizer
    by_id = {number: text for text, number in tokenizer.get_vocab().items()}
    beyond = [number for number in by_id if number >= rows]
    if beyond:
        raise UserError(
            f"{checkpoint.name} has {len(beyond)} tokens beyond the {rows} rows of its embedding "
            f"({by_id[beyond[0]]!r}), which llama.cpp refuses"
        )
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for number in range(rows):
        text = by_id.get(number)
        tokens.append(f"[PAD{number}]" if text is None else text)
        types.append(type_of(text, added.get(number)))
    if len(set(tokens)) < len(tokens):
        raise UserError(f"{checkpoint.name} has two tokens of the same text, which llama.cpp refuses")
    return tokens, types


def type_of(text: str | None, added: object) -> TokenType:
    """Control tokens are not printed by llama.cpp, user-defined ones are."""
    if text is None:
        return TokenType.UNUSED
    if added is None:
        return TokenType.NORMAL
    looks_special = text.startswith("<|") and text.endswith("|>")
    is_control = getattr(added, "special", False) or looks_special
    return TokenType.CONTROL if is_control else TokenType.USER_DEFINED


def merges(data: dict) -> list[str]:
    """Each as "a b"; a space within a part is written as byte-level BPE writes it."""
    pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in data["model"]["merges"]]
    return [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in pairs]


def begins_with_bos(checkpoint: Checkpoint) -> bool:
    tokenizer = checkpoint.tokenizer
    return tokenizer.bos_token_id is not None and tokenizer.encode("x")[:1] == [tokenizer.bos_token_id]


def chat_template(checkpoint: Checkpoint) -> str:
    """The default one, as transformers renders it."""
    template = checkpoint.tokenizer.chat_template
    return template["default"] if isinstance(template, dict) else template
