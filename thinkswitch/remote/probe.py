"""Is a server fit to be a teacher? Asked before its first prompt, since it would answer a wrong one, too.

A server may put a BOS or a template of its own around a prompt, read it with another tokenizer, leave the
tags of the trace out of its answers, or have too little room for them. Each spoils all answers and stops none
of them. What gives it away: how many tokens it counts, what it lists, and one short answer.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import httpx

from thinkswitch.errors import UserError, list_some, quote
from thinkswitch.generate import Chunk, Row
from thinkswitch.remote.teacher import STOP_SECONDS, Server
from thinkswitch.weights.checkpoint import Checkpoint

ANSWER_TOKENS = 128  # of the probe's answer: enough to see a short trace close
# A template adds as much to one as to the other, a tokenizer does not. Plain words on one line: where text is
# rare, llama.cpp may split it otherwise than the tokenizer that its file was made from.
SHORT, LONG = "Hi", "Tom has 23 pens and buys 4 bags of 12 for 1250 cents; how many pens has he now? " * 8
CONTEXT_KEYS = ("max_model_len", "context_length", "max_context_length", "n_ctx")  # as servers list it
ADVICE = "serve it with vLLM or llama.cpp's server, which take prompts as they are"

logger = logging.getLogger(__name__)


def check_teacher(
    url: str, model: str, checkpoint: Checkpoint, rows: list[Row], stopped: Callable[[], bool]
) -> None:
    """Return if the server may answer `rows`, or if a stop came; a UserError says what is wrong with it."""
    if not rows:
        return
    with asyncio.Runner() as runner:
        server = Server(url, model, checkpoint, stopped)
        task = runner.get_loop().create_task(probe(server, rows))
        try:
            runner.run(until_stopped(task, stopped))
        finally:
            runner.run(server.close([task]))


async def until_stopped(task: asyncio.Task, stopped: Callable[[], bool]) -> None:
    while not task.done() and not stopped():
        await asyncio.wait([task], timeout=STOP_SECONDS)
    if task.done():
        task.result()


async def probe(server: Server, rows: list[Row]) -> None:
    await check_listing(server, rows)
    first = rows[0]
    tokens = min(ANSWER_TOKENS, first.sampling.max_new_tokens)
    row = replace(first, sampling=replace(first.sampling, temperature=0.0, max_new_tokens=tokens))
    answer = await server.persist(
        lambda: server.post(row),
        lambda response: (server.last_chunk(0, row, response.json()), prompt_tokens(response)),
    )
    if answer is None:  # a stop
        return
    chunk, counted = answer
    if server.takes_ids:
        check_ids(server, len(row.ids), counted)
    await check_text(server)
    check_tags(server, row, chunk)


# ---- what it lists


async def check_listing(server: Server, rows: list[Row]) -> None:
    """The model that is asked for, and the room that it has. Servers that list nothing are believed."""
    try:
        listed = {str(model["id"]): model for model in await server.list_models()}
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
        return  # where no model is named, `find_model` says so
    if server.model and listed and server.model not in listed:
        names = list_some([quote(name) for name in listed])
        raise UserError(
            f"the teacher at {server.url} serves {names}, not {quote(server.model)}; set teacher_model"
        )
    model = listed.get(server.model) or next(iter(listed.values()), {})
    rooms = [model[key] for key in CONTEXT_KEYS if type(model.get(key)) is int and model[key] > 0]
    needed = max(len(row.ids) + row.sampling.max_new_tokens for row in rows)
    if rooms and min(rooms) < needed:
        raise UserError(
            f"the teacher at {server.url} has room for {min(rooms):,} tokens, prompt and answer take up to "
            f"{needed:,}; start it with a longer context, or lower think_tokens"
        )


# ---- how it reads a prompt


def prompt_tokens(response: httpx.Response) -> int | None:
    """How many tokens of prompt the server counted, if it says so."""
    usage = response.json().get("usage") or {}
    counted = usage.get("prompt_tokens")
    return counted if type(counted) is int and counted > 0 else None


def check_ids(server: Server, sent: int, counted: int | None) -> None:
    if counted is not None and counted != sent:
        raise UserError(
            f"the teacher at {server.url} was sent {sent} tokens and read {counted}, so it changes prompts; "
            f"{ADVICE}"
        )


async def check_text(server: Server) -> None:
    """Send a short and a long text, and compare how many tokens they are there and here.

    Where prompts go as ids, only the tokenizer matters; else nothing may be added to a text.
    """
    added = []
    for text in (SHORT, LONG):
        counted = await server.persist(partial(server.complete_text, text), prompt_tokens)
        if counted is None:
            logger.info(
                "%s does not count the tokens of a prompt, so it is not known what it adds", server.url
            )
            return
        added.append(counted - len(server.checkpoint.tokenizer.encode(text)))
    short, long = added
    if short != long:
        raise UserError(
            f"the teacher at {server.url} has another tokenizer: a text of {len(LONG)} characters is "
            f"{long - short:+} tokens there; serve {server.checkpoint.name}"
        )
    if server.takes_ids or short == 0:
        return
    if short < 0:
        raise UserError(
            f"the teacher at {server.url} leaves out {-short} tokens that its tokenizer puts before a text; "
            f"{ADVICE}"
        )
    if short == 1:
        raise UserError(
            f"the teacher at {server.url} puts one more token, probably a BOS, before each prompt; {ADVICE}"
        )
    raise UserError(
        f"the teacher at {server.url} puts {short} tokens around each prompt, a template of its own, as "
        f"Ollama does; {ADVICE}"
    )


# ---- what it answers


def check_tags(server: Server, row: Row, chunk: Chunk) -> None:
    """An answer that has come to its end in the open trace has lost the closing tag on its way."""
    if row.prefilled and chunk.finish == "stop" and chunk.state == "open":
        raise UserError(
            f"the teacher at {server.url} ends its answer without {row.tags.close}: it strips special "
            f"tokens, or serves another model than {server.checkpoint.name}; {ADVICE}"
        )
