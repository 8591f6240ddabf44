"""A checkpoint's tokenizer: reading it, what tells two of them apart, and the token that ends a turn."""

import re
from collections.abc import Container
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from thinkswitch.errors import UserError, first_line, list_some
from thinkswitch.weights.prompting import ANSWER, Prompting, render

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
# Numbers, spaces, accents, scripts, emoji, tags: what tokenizers of one vocabulary may split differently.
PROBE = "Wait, 3·7 = 21?\n\tNaïve ½ – 你好 \U0001f914 <think>\n</think>\n\n\\boxed{-12}"


def read_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    """Its text is what the tokens spell, letter for letter, whatever tokenizer_config.json asks for."""
    try:
        return AutoTokenizer.from_pretrained(
            folder,
            padding_side="left",
            clean_up_tokenization_spaces=False,
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:  # the library raises whatever a damaged file leads to
        raise UserError(f"{name} has no readable tokenizer: {first_line(error)}") from None


# ---- two of them


def tokenizer_differences(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, probe: str = PROBE, texts: str = ""
) -> list[str]:
    """What tells two tokenizers apart, a clause or none. Added tokens that no text uses do not count.

    `texts`: what is written beside the chat templates: system prompts, tags.
    """
    unused = unused_tokens(ours, theirs, texts)
    different = {text: i for text, i in sorted(different_tokens(ours, theirs)) if text not in unused}
    if different:
        examples = list_some([repr(text) for text in sorted(different, key=different.__getitem__)])
        return [f"the tokenizers differ in {len(different)} tokens ({examples})"]
    if ours.encode(probe) != theirs.encode(probe):
        return ["the tokenizers have the same tokens but split a probe text differently"]
    return []


def different_tokens(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> set[tuple[str, int]]:
    """Those that only one of the two has, or each at another number."""
    return set(ours.get_vocab().items()) ^ set(theirs.get_vocab().items())


def unused_tokens(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, texts: str = ""
) -> list[str]:
    """Added tokens in which two tokenizers differ, and which no chat template, text or end of a turn uses."""
    both = (ours, theirs)
    written = "\n".join([texts, *(str(tokenizer.chat_template) for tokenizer in both)])
    roles = {token for tokenizer in both for token in (tokenizer.bos_token, tokenizer.eos_token) if token}
    added = set[str]().union(*(tokenizer.get_added_vocab() for tokenizer in both))
    names = {text for text, _ in different_tokens(ours, theirs)}
    return sorted(text for text in names & added if text not in written and text not in roles)


def tokens_beyond(tokenizer: PreTrainedTokenizerBase, rows: int) -> list[str]:
    """Tokens whose number an embedding of so many rows does not have."""
    beyond = {number: text for text, number in tokenizer.get_vocab().items() if number >= rows}
    return [beyond[number] for number in sorted(beyond)]


# ---- the end of a turn


def turn_end(
    tokenizer: PreTrainedTokenizerBase, prompting: Prompting, declared: Container[int]
) -> int | None:
    """The token with which the chat template ends an assistant's turn; None if it ends none with a token.

    One of those that the checkpoint declares, or else the first added one: copies of base models declare the
    end of a document alone. Some templates end a turn with what begins the next.
    """
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
    added = set(tokenizer.added_tokens_decoder) - tag_tokens(tokenizer)
    for conversation in (turns, [*turns, turns[0]]):
        text = render(tokenizer, prompting, conversation)
        after_answer = text[text.rindex(ANSWER) + len(ANSWER) :]
        ids = tokenizer.encode(after_answer, add_special_tokens=False)
        for wanted in (declared, added):
            found = next((i for i in ids if i in wanted), None)
            if found is not None:
                return found
    return None


def tag_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Added tokens that close a part of an answer, such as </answer>."""
    added = tokenizer.added_tokens_decoder.items()
    return {i for i, token in added if not token.special and re.fullmatch(r"</[\w:]+>", token.content)}
