"""A teacher on another machine: any OpenAI-compatible server (vLLM, llama.cpp, LM Studio) that serves the thinking checkpoint.

Prompts go to /completions as our own chat template renders them, so a sample is the same text as if it had been decoded here. As
many requests at once as the preset has rows; what fails is tried again; what is answered is written at once. Torch-free.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass

from thinkswitch.errors import UserError

TRIES = 5
WAIT = 1.0  # seconds before the second try; doubled before each further one
PATIENCE = 3600  # seconds for one answer: a long trace on a slow server
BUSY = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Reply:
    text: str
    tokens: int | None
    finish: str  # stop | length


def complete_many(url: str, model: str, bodies: dict[int, dict], at_once: int, stopped: Callable[[], bool]) -> Iterator[tuple[int, Reply | None]]:
    """(index, reply) as they come in; (index, None) once when `stopped`, and then nothing more."""
    model = model or default_model(url)
    pool, waiting, open_ = ThreadPoolExecutor(at_once), list(bodies.items()), {}
    try:
        while waiting or open_:
            while waiting and len(open_) < at_once:
                index, body = waiting.pop(0)
                open_[pool.submit(complete, url, dict(model=model, **body), stopped)] = index
            done, _ = wait(open_, timeout=0.2, return_when=FIRST_COMPLETED)
            if stopped():
                yield next(iter(open_.values()), -1), None
                return
            for future in done:
                yield open_.pop(future), future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def complete(url: str, body: dict, stopped: Callable[[], bool]) -> Reply:
    """One completion; tried again while the server is busy or away."""
    for n in range(TRIES):
        try:
            said = post_json(f"{url.rstrip('/')}/completions", body)
            choice = said["choices"][0]
            return Reply(choice["text"], (said.get("usage") or {}).get("completion_tokens"), "length" if choice.get("finish_reason") == "length" else "stop")
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {error.reason}: {error.read(300).decode('utf-8', 'replace').strip()}"
            if error.code not in BUSY:
                raise UserError(f"the teacher at {url} refuses: {reason}") from None
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:  # away, cut off, or no such answer
            reason = f"{type(error).__name__}: {error}"
        if n + 1 < TRIES and not stopped():
            time.sleep(WAIT * 2**n)
    raise UserError(f"the teacher at {url} did not answer in {TRIES} tries ({reason}); start it again, then resume: what is answered is kept")


def default_model(url: str) -> str:
    """The model a server serves first."""
    try:
        return post_json(f"{url.rstrip('/')}/models", None, timeout=20)["data"][0]["id"]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"no OpenAI-compatible server answers at {url} ({error}); its address ends in /v1, such as http://127.0.0.1:8000/v1") from None


def post_json(url: str, body: dict | None, timeout: float = PATIENCE) -> dict:
    if not url.startswith(("http://", "https://")):
        raise ValueError("not an http address")
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)
