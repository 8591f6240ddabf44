"""What the columns of a row mean: usual names, Alpaca's three columns, chats. Torch-free."""

from collections.abc import Iterable
from typing import Any

from thinkswitch import json_text
from thinkswitch.errors import UserError
from thinkswitch.think_parser import parse_response
from thinkswitch.think_tags import KNOWN_TAGS, THINK

PROMPT_COLUMNS = ("prompt", "problem", "question", "query", "instruction", "input", "user", "text")
ANSWER_COLUMNS = (
    *("answer", "final_answer", "expected_answer", "gold_answer", "correct_answer", "ground_truth", "gold"),
    *("target", "solution", "output", "response", "completion", "answers", "final_decision", "label"),
    *("chosen", "assistant"),
)
CHAT_COLUMNS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
Turn = tuple[str, str]  # role, text


def plain(row: dict, where: str) -> dict:
    """The row with columns `prompt` and `answer` where an Alpaca row or a chat has them in other forms.

    A chat is its first question and the reply to it; a system turn stands before the question. What later
    turns ask depends on answers that another model would not give.
    """
    found = dict(row)
    named = by_lower_case(row)
    for name, value in row.items():
        turns = turns_of(value, where) if name else None
        if turns is None:
            continue
        asked, replied = question_and_reply(turns)
        if str(name).casefold() in CHAT_COLUMNS:
            found.setdefault("prompt", asked)
            found.setdefault("answer", replied)
        else:  # of preferences or completions: prompt, chosen, completion
            found[name] = replied if str(name).casefold() in ANSWER_COLUMNS else asked
    if "prompt" not in named and "instruction" in named and {"input", "context"} & named.keys():
        cells = [row[named[name]] for name in ("system", "instruction", "input", "context") if name in named]
        parts = [str(cell).strip() for cell in cells if not is_missing(cell)]
        found["prompt"] = "\n\n".join(filter(None, parts))
    return found


def by_lower_case(names: Iterable[Any]) -> dict[str, Any]:
    """{name in lower case: name}."""
    return {str(name).casefold(): name for name in names}


def usual_columns(columns: Iterable[Any], prompt: str | None, answer: str) -> tuple[str | None, str]:
    """The columns of prompts and of answers: those asked for, where they are there; else by a usual name."""
    columns = list(columns)
    named = by_lower_case(columns)
    if prompt is not None and prompt not in columns:
        prompt = next((named[name] for name in (prompt.casefold(), *PROMPT_COLUMNS) if name in named), prompt)
    if answer not in columns:
        usual = [name for name in (answer.casefold(), *ANSWER_COLUMNS) if name in named]
        answer = next((named[name] for name in usual if named[name] != prompt), answer)
    return prompt, answer


# ---- chats


def turns_of(value: Any, where: str) -> list[Turn] | None:
    """(role, text) of every turn; None for what is no chat."""
    if isinstance(value, str) and value.lstrip()[:2] in ("[{", "[ "):  # in a cell of a table
        try:
            value = json_text.parse(value)
        except ValueError:
            return None
    if isinstance(value, dict):  # a list of objects as `datasets` may store it: by columns
        columns = list(value.values())
        if not columns or not all(isinstance(column, list) for column in columns):
            return None
        value = [dict(zip(value, cells, strict=False)) for cells in zip(*columns, strict=False)]
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        return None
    if not all(isinstance(turn.get("role", turn.get("from")), str) for turn in value):
        return None
    return [turn_of(turn, where) for turn in value]


def turn_of(turn: dict, where: str) -> Turn:
    content = next((turn[key] for key in ("content", "value", "text") if turn.get(key) is not None), "")
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        kinds = sorted({str(part.get("type")) for part in parts if isinstance(part, dict)} - {"text"})
        held = " and ".join(kinds) or "no text"
        raise UserError(f"{where}: a turn of its chat holds {held}; only text is read")
    role = str(turn.get("role", turn.get("from")))
    return ROLES.get(role.casefold(), role), "\n".join(map(str, texts))


def question_and_reply(turns: list[Turn]) -> tuple[str, str]:
    """The first question, after a system turn if there is one, and the reply to it; empty: none."""
    system = [text for role, text in turns if role == "system"][:1]
    after = list(turns)
    while after and after[0][0] != "user":  # a greeting
        after.pop(0)
    asked: list[str] = []
    while after and after[0][0] == "user":
        asked.append(after.pop(0)[1])
    replied = after[0][1] if after and after[0][0] == "assistant" else ""
    if not asked:  # a column of replies
        return "", next((text for role, text in turns if role == "assistant"), "")
    return "\n\n".join(text for text in (*system, *asked) if text.strip()), replied


# ---- answers


def is_missing(value: Any) -> bool:
    """Whether a cell is empty; pandas writes NaN there."""
    return value is None or value != value


def answer_text(value: Any, kind: str = "text") -> str:
    """A right answer as text, without a reasoning trace before it. Of several, the first one."""
    while isinstance(value, list | dict):
        if isinstance(value, dict):  # SQuAD: {text: [...], answer_start: [...]}; TriviaQA: {value: ...}
            value = next((value[key] for key in ("text", "value", "answer") if key in value), str(value))
        else:
            value = value[0] if value else None
    if is_missing(value):
        return ""
    if isinstance(value, bool) and kind == "choice":
        return "yes" if value else "no"
    text = str(value).strip()
    tags = next((tags for tags in KNOWN_TAGS if tags.open in text and tags.close in text), None)
    if tags is None and THINK.close in text:
        tags = THINK
    return parse_response(text, prefilled=tags.open not in text, tags=tags).answer.strip() if tags else text
