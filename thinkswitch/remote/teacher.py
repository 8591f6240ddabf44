"""A thinking checkpoint behind an OpenAI-compatible server (vLLM, llama.cpp, LM Studio), asked over HTTP.

Prompts go to /completions with our own chat template applied, so a sample has the text that it would have if
it were decoded here. As many requests are open at once as the preset has rows; what fails is tried again. The
server answers with what it was started with: for later rounds, their exported thinking checkpoint. It samples
as the preset says: also what is off goes along, since a server has defaults of its own.

No thread is started, so nothing outlives a stop, a refusal or Ctrl-C: open requests are closed at once.
"""

import asyncio
import ipaddress
import logging
import os
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx

from thinkswitch.errors import UserError
from thinkswitch.generate import Chunk, Row
from thinkswitch.proxies import refuse_unusable_proxies
from thinkswitch.sampler import Sampling
from thinkswitch.think_parser import parse_response
from thinkswitch.weights.checkpoint import Checkpoint

KEY = "OPENAI_API_KEY"  # of the environment
TRIES = 5
RETRY_SECONDS = 1.0  # before the second try; doubled before each further one
CONNECT_SECONDS = 10.0
MODELS_SECONDS = 20.0
ANSWER_SECONDS = 3600.0  # nothing arrives before an answer is whole: a long trace on a slow server
STOP_SECONDS = 0.2  # how often a stop is looked for
RETRIED = (408, 425, 429, 500, 502, 503, 504)  # busy or starting, not a refusal
MALFORMED = (400, 422)  # what servers answer to a type of prompt, or a field, that they do not take
# llama.cpp's own comes to the temperature last, so that its top_p keeps other tokens than ours
LLAMA_CPP_ORDER = ("penalties", "temperature", "top_k", "top_p", "min_p")

T = TypeVar("T")

logger = logging.getLogger(__name__)


def ask_teacher(
    url: str,
    model: str,
    checkpoint: Checkpoint,
    rows: list[Row],
    at_once: int,
    stopped: Callable[[], bool],
    done: Container[int] = frozenset(),
) -> Iterator[Chunk]:
    """Yield the last Chunk of every row that is not in `done`, as answers arrive; `done` is read once, first.

    `model` is the name of `checkpoint` on the server, empty for the first one that it serves. Once `stopped`,
    the rows without an answer end with finish "cancel". UserError when the server refuses or does not answer.
    """
    unanswered = [i for i in range(len(rows)) if i not in done]
    waiting = deque(unanswered)
    tasks: set[asyncio.Task[Chunk | None]] = set()
    with asyncio.Runner() as runner:
        server = Server(url, model, checkpoint, stopped)
        try:
            while unanswered and not stopped():
                while waiting and len(tasks) < at_once:
                    index = waiting.popleft()
                    tasks.add(runner.get_loop().create_task(server.answer(index, rows[index])))
                finished = runner.run(first_finished(tasks))
                tasks -= finished
                for task in finished:
                    chunk = task.result()
                    if chunk is not None:
                        unanswered.remove(chunk.row)
                        yield chunk
        finally:
            runner.run(server.close(tasks))
    for index in unanswered:
        yield Chunk(index, "", "", rows[index].prefilled, 0, "cancel")


async def first_finished(tasks: Iterable[asyncio.Task]) -> set[asyncio.Task]:
    """The tasks that have finished, none when it is time to look for a stop."""
    finished, _ = await asyncio.wait(tasks, timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    return finished


@dataclass(frozen=True)
class Form:
    """How a prompt is sent."""

    as_ids: bool  # else as text
    in_full: bool  # all of the sampling in every server's names; else what is on, in vLLM's


FORMS = (Form(True, True), Form(False, True), Form(True, False), Form(False, False))


class Server:
    """One server: its connections, the model that it serves, and how it takes a prompt."""

    def __init__(self, url: str, model: str, checkpoint: Checkpoint, stopped: Callable[[], bool]):
        self.url, self.model, self.checkpoint, self.stopped = url.rstrip("/"), model, checkpoint, stopped
        self.form: Form | None = None  # None: not known yet
        self.asking_for_model = asyncio.Lock()
        self.client = open_client(url)

    async def answer(self, index: int, row: Row) -> Chunk | None:
        """The last Chunk of a row; None when a stop came while the server was busy."""
        return await self.persist(
            lambda: self.post(row), lambda response: self.last_chunk(index, row, response.json())
        )

    async def persist(
        self, ask: Callable[[], Awaitable[httpx.Response]], read: Callable[[httpx.Response], T]
    ) -> T | None:
        """What `read` takes from the answer, asked for again while the server is busy; None after a stop."""
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(RETRY_SECONDS * 2 ** (attempt - 1))
                if self.stopped():
                    return None
            try:
                await self.find_model()
                response = await ask()
                if response.is_success:
                    return read(response)
                said = f"{response.status_code} {response.reason_phrase}: {response.text[:300].strip()}"
                reason = without_key(said)
            except httpx.RequestError as error:  # away, or the connection broke
                reason = describe(error)
            except (ValueError, LookupError, TypeError, AttributeError) as error:  # an answer of another form
                reason = describe(error)
            else:
                if response.status_code not in RETRIED:
                    raise UserError(f"the teacher at {self.url} refuses: {reason}")
        raise UserError(
            f"the teacher at {self.url} did not answer in {TRIES} tries ({reason}); "
            "start it again, then resume: what is answered is kept"
        )

    async def find_model(self) -> None:
        """Where no name was given, take the first model that the server lists; asked once for all rows."""
        async with self.asking_for_model:
            if self.model:
                return
            try:
                self.model = (await self.list_models())[0]["id"]
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                raise UserError(
                    f"no OpenAI-compatible server answers at {self.url} ({describe(error)}); "
                    "its address ends in /v1, such as http://127.0.0.1:8000/v1"
                ) from None

    async def list_models(self) -> list[dict]:
        """What it says of each model that it serves."""
        response = await self.client.get(f"{self.url}/models", timeout=MODELS_SECONDS)
        return response.raise_for_status().json()["data"]

    @property
    def takes_ids(self) -> bool:
        return self.form is not None and self.form.as_ids

    async def post(self, row: Row) -> httpx.Response:
        """Send token ids: text would be tokenised again, with a second BOS where the tokenizer adds one.

        vLLM and llama.cpp take ids and fields in full; LM Studio takes no ids, and others refuse a field that
        they do not know. The first form that a server takes is the one for all rows.
        """
        for untried in FORMS:
            form = self.form or untried
            response = await self.send(row, form)
            if response.is_success and self.form is None:
                self.settle(form)
            if self.form == form or response.status_code not in MALFORMED:
                return response
        return response

    def settle(self, form: Form) -> None:
        self.form = form
        if not form.as_ids:
            logger.info("%s takes no token ids, so prompts go as text", self.url)
        if not form.in_full:
            logger.warning(
                "%s refuses fields that are not OpenAI's, so what the preset leaves off is there as that "
                "server has it",
                self.url,
            )

    async def send(self, row: Row, form: Form) -> httpx.Response:
        body = dict(model=self.model, max_tokens=row.sampling.max_new_tokens, seed=row.seed % 2**31)
        body |= sampling_in_full(row) if form.in_full else sampling_that_is_on(row.sampling)
        body["prompt"] = list(row.ids) if form.as_ids else prompt_text(self.checkpoint.tokenizer, row.ids)
        return await self.complete(body)

    async def complete_text(self, text: str) -> httpx.Response:
        """One token after a text, for what the server says of the text."""
        return await self.complete(dict(model=self.model, prompt=text, max_tokens=1, temperature=0.0))

    async def complete(self, body: dict) -> httpx.Response:
        return await self.client.post(f"{self.url}/completions", json=body)

    def last_chunk(self, index: int, row: Row, reply: dict) -> Chunk:
        """What `generate` would yield for this answer. Counts the tokens where the server does not."""
        tokenizer = self.checkpoint.tokenizer
        choice = reply["choices"][0]
        finish = "length" if choice.get("finish_reason") == "length" else "stop"
        text = choice["text"]
        for stop in self.checkpoint.stop_token_ids:  # some servers include it
            text = text.removesuffix(tokenizer.decode([stop]))
        tokens = (reply.get("usage") or {}).get("completion_tokens")
        if tokens is None:
            tokens = len(tokenizer.encode(text, add_special_tokens=False))
        parts = parse_response(text, row.prefilled, row.tags)
        return Chunk(index, parts.trace, parts.answer, parts.thinking, tokens, finish, parts.state, text)

    async def close(self, tasks: Collection[asyncio.Task]) -> None:
        """Drop the open requests; their server sees the connections close."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.aclose()


def sampling_in_full(row: Row) -> dict:
    """The sampling in the names of all servers; most pass over a name that they do not know.

    What a request leaves out, llama.cpp has defaults for (top_k 40, min_p 0.05), and vLLM the checkpoint's
    generation_config.json.
    """
    sampling = row.sampling
    return dict(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=0.0,
        top_k=sampling.top_k or -1,  # SGLang and older vLLMs refuse 0
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,  # vLLM's name
        skip_special_tokens=False,  # vLLM would, and so leave out the tags of some vocabularies
        repeat_penalty=sampling.repetition_penalty,  # that of llama.cpp and LM Studio
        repeat_last_n=len(row.ids) + sampling.max_new_tokens,  # llama.cpp counts 64 tokens, and takes no -1
        samplers=LLAMA_CPP_ORDER,
    )


def sampling_that_is_on(sampling: Sampling) -> dict:
    """OpenAI's fields, and those of vLLM's that the preset needs: who refuses one cannot sample so."""
    off = Sampling()
    names = ("presence_penalty", "top_k", "min_p", "repetition_penalty")
    on = {name: getattr(sampling, name) for name in names if getattr(sampling, name) != getattr(off, name)}
    return dict(temperature=sampling.temperature, top_p=sampling.top_p, **on)


def open_client(url: str) -> httpx.AsyncClient:
    """Connections to the server. A key comes from the environment only, never from a file of the run."""
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as error:
        raise UserError(
            f"teacher must be an address such as http://127.0.0.1:8000/v1, it is {url!r} ({error})"
        ) from None
    key = os.environ.get(KEY)
    if not is_loopback(host):
        refuse_unusable_proxies()
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None),  # `at_once` is the limit
        trust_env=not is_loopback(host),  # a proxy cannot reach a server of this machine
        verify=ssl.create_default_context(),  # those of this system, a company's own included
    )


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine."""
    host = host.casefold().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def prompt_text(tokenizer, ids: tuple[int, ...]) -> str:
    """A prompt as text. Its BOS is left out where the tokenizer, and so the server, adds one to a text."""
    added = tokenizer.encode("")
    if added and ids[:1] == (added[0],):
        ids = ids[1:]
    return tokenizer.decode(ids)


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def without_key(text: str) -> str:
    """What a server says, ready for the run's log: some repeat the key that they refuse."""
    key = os.environ.get(KEY)
    return text.replace(key, "***") if key else text
