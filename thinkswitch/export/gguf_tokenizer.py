"""A checkpoint's tokenizer as the keys of a GGUF file.

llama.cpp splits text into words by one of its own rules, which the file names. A wrong name gives other token
ids without a word. So each rule is tried here, with the checkpoint's vocabulary, against the checkpoint.
"""

import json
from dataclasses import dataclass
from functools import lru_cache

import gguf
from gguf import TokenType
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from thinkswitch.errors import UserError
from thinkswitch.export.verify import PROMPTS
from thinkswitch.weights.checkpoint import Checkpoint
from thinkswitch.weights.tokenizer import PROBE

LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SIGNS_AND_SPACE = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACE}"
ENDINGS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
# A capital begins a word: as far as llama.cpp's regular expressions know capitals
UPPER, LOWER = r"(?=\p{L})[^a-z]", r"(?=\p{L})[^A-Z]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
CASED = (rf"{BEFORE}(?:{UPPER})*(?:{LOWER})+", rf"{BEFORE}(?:{UPPER})+(?:{LOWER})*")
SIGNS_AND_SLASHES = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACE}"
HAN_AND_KANA = "[一-龥぀-ゟ゠-ヿ]+"
ASCII_SIGNS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
MARKED = (
    rf"{ASCII_SIGNS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACE}"
)

QUESTIONS = PROMPTS[:2]  # what every rule must get right
TEXTS = (  # in which the rules differ: digits, contractions, lines, spaces, signs, other scripts
    PROBE,
    "Tom has 23 pens; he BUYS 4 bags.\n\nHow many are there?\n- one\n- two",
    "<think>\n7 + 5 = 12\n</think>\n\n\\boxed{12}",
    "def f(x):\n    return x  # 100%",
    "She's sure IT'S WE'LL don't I'M\tx  y   z \n \n\n  end ",
    "3.14159 1,000,000 007 1234567 ½ ² ٣",
    "Ünïcödé 中文字符 русский ελληνικά हिन्दी 🙂👍🏽",
    "'tis 'Twas 'tis the 'Twas iPhone camelCase HTTPServer",
    "x = 1;\n  \ny = 2;\n  \nz!\n  \n//",
    "a_b--c...d!!?? (e) [f] {g} <h> $i^2$ \\frac{1}{2}",
)


@dataclass(frozen=True)
class Rule:
    """How llama.cpp splits text: patterns one after the other; the name is what the file says."""

    name: str
    patterns: tuple[str, ...]
    whole_words: bool = False  # a word that is a token is not put together by merges


LLAMA_3 = rf"{ENDINGS}|{LETTERS}|\p{{N}}{{1,3}}|{SIGNS_AND_SPACE}"
RULES = (
    Rule("qwen2", (rf"{ENDINGS}|{LETTERS}|\p{{N}}|{SIGNS_AND_SPACE}",)),
    Rule("llama-bpe", (LLAMA_3,), whole_words=True),  # and glm4, lfm2
    Rule("dbrx", (LLAMA_3,)),  # OLMo 2 and 3, Phi-4, SmolLM3
    Rule("smollm", (r"\p{N}", GPT_2)),  # and Granite 3
    Rule("gpt-2", (GPT_2,)),
    Rule("tekken", (rf"{'|'.join(CASED)}|\p{{N}}|{SIGNS_AND_SLASHES}",), whole_words=True),
    Rule(
        "gpt-4o", (rf"{CASED[0]}{ENDINGS}?|{CASED[1]}{ENDINGS}?|\p{{N}}{{1,3}}|{SIGNS_AND_SLASHES}",)
    ),  # Phi-4-mini
    Rule("seed-coder", (rf"{ENDINGS}|{LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACE}",)),
    Rule("hunyuan-dense", (r"\p{N}{1,3}", HAN_AND_KANA, MARKED)),
)


@dataclass(frozen=True)
class FoundRule:
    """A rule that gives the checkpoint's token ids in all texts, or at least in questions."""

    name: str
    exact: bool = True


def find_rule(checkpoint: Checkpoint) -> FoundRule:
    """The rule under which llama.cpp reads text as the checkpoint does; a UserError where there is none."""
    questions = tuple(checkpoint.render(question) for question in QUESTIONS)
    found = look_for_rule(checkpoint.tokenizer, questions, checkpoint.config.vocab_size)
    if isinstance(found, str):
        raise UserError(f"the tokenizer of {checkpoint.name} {found}; export a Hugging Face folder instead")
    return found


@lru_cache(maxsize=4)  # the page asks at every change of its form, and a large vocabulary takes seconds
def look_for_rule(
    tokenizer: PreTrainedTokenizerBase, questions: tuple[str, ...], rows: int
) -> FoundRule | str:
    """The rule, or why there is none. `rows`: of the embedding."""
    data = tokenizer_data(tokenizer)
    parts = json.dumps([data.get("pre_tokenizer"), data.get("decoder")])
    model = data.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback") or "ByteLevel" not in parts:
        return "is not byte-level BPE, and GGUF export knows no other"
    if not model["merges"]:
        return "has no merges, without which llama.cpp refuses a file"
    beyond = [text for text, number in tokenizer.get_vocab().items() if number >= rows]
    if beyond:
        return f"has tokens beyond the {rows} rows of the embedding ({beyond[0]!r}), which llama.cpp refuses"
    inexact = None
    whole_words = bool(model.get("ignore_merges"))
    for rule in sorted(RULES, key=lambda rule: rule.whole_words != whole_words):
        theirs = emulated(data, rule)
        if not same_ids(tokenizer, theirs, questions):
            continue
        if same_ids(tokenizer, theirs, TEXTS):
            return FoundRule(rule.name)
        inexact = inexact or FoundRule(rule.name, exact=False)
    known = ", ".join(rule.name for rule in RULES)
    return inexact or f"splits text as no rule of llama.cpp does that is known here ({known})"


def tokenizer_data(tokenizer: PreTrainedTokenizerBase) -> dict:
    """The tokenizer as tokenizer.json has it; empty for one that is written in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.loads(backend.to_str()) if backend is not None else {}


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


def same_ids(ours: PreTrainedTokenizerBase, theirs: Tokenizer, texts: tuple[str, ...]) -> bool:
    for text in texts:
        ids = ours.encode(text, add_special_tokens=False)
        if theirs.encode(text, add_special_tokens=False).ids != ids:
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
    writer.add_token_merges(merges(tokenizer_data(checkpoint.tokenizer)))
    tokenizer = checkpoint.tokenizer
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(begins_with_bos(checkpoint))
    end = checkpoint.turn_end if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    writer.add_eos_token_id(end)
    if checkpoint.turn_end != end:
        writer.add_eot_token_id(checkpoint.turn_end)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(chat_template(checkpoint))


def vocabulary(checkpoint: Checkpoint, rows: int) -> tuple[list[str], list[TokenType]]:
    """The text and type of every row of the embedding. llama.cpp wants as many, and all different."""
    tokenizer = checkpoint.tokenizer
    by_id = {number: text for text, number in tokenizer.get_vocab().items()}
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
