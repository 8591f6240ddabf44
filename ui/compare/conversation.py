"""A conversation in Compare: each column goes on from its own answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from thinkswitch.errors import UserError
from ui.widgets import rich_text
from ui.widgets.components import EarlierTurn

if TYPE_CHECKING:
    from thinkswitch.weights.prompting import Conversation
    from ui.sessions import Session


@dataclass(frozen=True)
class Exchange:
    """A prompt and what each column answered, traces stripped."""

    prompt: str
    answers: dict[str, str]  # {column: answer}


def exchange_shown(session: Session, prompt: str, columns: tuple[str, ...]) -> Exchange:
    """What the page shows now, as a turn to go on from."""
    if session.unfinished(columns):
        raise UserError("the answers are still being written; wait, or press Stop")
    cards = {column: session.shows(column) or {} for column in columns}
    if not all(card.get("foot") for card in cards.values()):
        raise UserError("there is nothing to follow up on yet; press Run first")
    return Exchange(prompt, {column: card.get("answer", "") for column, card in cards.items()})


def conversation_of(exchanges: tuple[Exchange, ...], column: str, system: str) -> Conversation:
    """What comes before the prompt in a column."""
    from thinkswitch.weights.prompting import Conversation

    turns = tuple((exchange.prompt, exchange.answers.get(column, "")) for exchange in exchanges)
    return Conversation(system, turns)


def earlier_turns(exchanges: tuple[Exchange, ...], column: str) -> list[EarlierTurn]:
    """As a card shows them."""
    turns: list[EarlierTurn] = []
    for exchange in exchanges:
        answer = exchange.answers.get(column, "")
        turns.append({"prompt": exchange.prompt, "answer": answer, "html": rich_text.render(answer, True)})
    return turns
