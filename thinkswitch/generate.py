"""One decode loop for everything. Rows in, Chunks out.

Rows of one batch may differ in prompt, recipe, sampling, seed and length limit. A finished row leaves the
batch, so short answers do not wait for long ones. Cancelling takes effect within one step.

Each row draws from its own random stream, so its text does not depend on the rows that share its batch,
unless two tokens tie to within rounding (about 1e-6): the same bits need the same batch.
"""

import time
from collections.abc import Callable, Generator, Iterator, Set
from dataclasses import dataclass
from typing import cast

import torch
from transformers import DynamicCache, PreTrainedTokenizerBase

from thinkswitch.errors import UserError
from thinkswitch.recipe import Recipe
from thinkswitch.sampler import GREEDY, Sampler, Sampling
from thinkswitch.think_parser import ThinkParser
from thinkswitch.think_tags import THINK, Tags
from thinkswitch.weights.device import out_of_memory, refuse_nan, release
from thinkswitch.weights.kv_cache import replace_layers
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.long_rope import find_long_rope, row_lengths


@dataclass(frozen=True)
class Row:
    """One prompt, and how to answer it."""

    ids: tuple[int, ...]  # the prompt, chat template applied
    sampling: Sampling = GREEDY
    seed: int = 0
    prefilled: bool = False  # the chat template has opened the trace
    recipe: Recipe | None = None  # the point of a Blend; None on a plain model
    tags: Tags = THINK


@dataclass(frozen=True)
class Chunk:
    """The text of a row so far. The last chunk of a row has `finish`: stop | length | cancel."""

    row: int
    trace: str
    answer: str
    thinking: bool  # the newest text belongs to the trace
    tokens: int
    finish: str | None = None
    state: str = "none"  # whether and how the trace was closed: see ThinkParser
    text: str = ""  # raw, with tags; on the last chunk only


@torch.inference_mode()  # a decorator enters it anew at each next(), which may come from another thread
def generate(
    model,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Row],
    stops: set[int],
    batch: int = 64,
    stream: bool = True,
    cancelled: Callable[[], bool] = lambda: False,
    every: float = 0.0,
    done: Set[int] = frozenset(),
    between_steps: Callable[[], None] = lambda: None,
) -> Generator[Chunk, None, None]:
    """Decode `rows`, at most `batch` at once, in groups of similar length.

    Every row that is not in `done` ends with exactly one last chunk. `stream=False` yields only these;
    `every` is the least time in seconds between two unfinished chunks of a row.

    `done`: rows that an earlier process has answered. They yield nothing; a group of only such rows is
    skipped, any other is decoded whole, because the same bits need the same batch. The set is copied at the
    first next(), so the caller may add to it while reading.

    When memory runs out, this group and all groups after it are halved. Unfinished rows of the group start
    again, so their chunks may become shorter. A single row that does not fit is a UserError.

    `between_steps` is called before every step and may run another batch on the same model. `cancelled` is
    asked right after it.
    """
    finished = set(done)
    show_every = every if stream else None
    groups = group_rows(rows, batch)
    while groups:
        group, *groups = groups
        if finished.issuperset(group):
            continue
        texts = [IncrementalDetokenizer(tokenizer, rows[i], i) for i in group]
        fits = True
        try:
            for chunk in decode(model, texts, stops, show_every, cancelled, between_steps):
                if chunk.row not in finished:
                    if chunk.finish:
                        finished.add(chunk.row)
                    yield chunk
        except RuntimeError as error:  # torch.OutOfMemoryError is one, too
            if not out_of_memory(error):
                raise
            fits = False
        if not fits:  # outside of `except`: the error holds on to the tensors of the failed step
            release()
            groups = halve([group, *groups], rows)


def group_rows(rows: list[Row], batch: int) -> list[list[int]]:
    """Which rows share a batch. Long prompts come first, so that what does not fit shows at once."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), i))
    return [order[start : start + batch] for start in range(0, len(rows), batch)]


def halve(groups: list[list[int]], rows: list[Row]) -> list[list[int]]:
    """The same rows in groups of half the size; UserError when the first group is a single row."""
    if len(groups[0]) == 1:
        limit = rows[groups[0][0]].sampling.max_new_tokens
        raise UserError(
            f"a single row of up to {limit:,} new tokens does not fit into memory; "
            "lower think_tokens and instruct_tokens, or take four_bit=true"
        )
    halves = [half for group in groups for half in (group[: len(group) // 2], group[len(group) // 2 :])]
    return [half for half in halves if half]


def decode(
    model,
    texts: "list[IncrementalDetokenizer]",
    stops: set[int],
    every: float | None,
    cancelled: Callable[[], bool],
    between_steps: Callable[[], None],
) -> Iterator[Chunk]:
    """Decode one batch, a row for each of `texts`; `every` None yields last chunks only."""
    batch = Batch(model, [text.row for text in texts])
    shown = time.monotonic()
    while texts:
        between_steps()
        if cancelled():
            for text in texts:
                yield text.end("cancel")
            return
        tokens = batch.step()
        now = time.monotonic()
        show = every is not None and now - shown >= every
        if show:
            shown = now
        keep = []
        for position, (text, token) in enumerate(zip(texts, tokens, strict=True)):
            if token in stops:
                yield text.end("stop")
            elif text.add(token) >= text.row.sampling.max_new_tokens:
                yield text.end("length")
            else:
                keep.append(position)
                if show and text.read():
                    yield text.chunk()
        if len(keep) < len(texts):
            texts = [texts[position] for position in keep]
            batch.filter(keep)


class Batch:
    """The tensors of rows that decode together, one entry a row in each; prompts are padded on the left.

    The first `step` reads the prompts (prefill), every later one the newest token of each row.
    """

    def __init__(self, model, rows: list[Row]):
        device = next(model.parameters()).device
        width = max(len(row.ids) for row in rows)
        missing = [width - len(row.ids) for row in rows]
        # masked, so any token will do; a tokenizer's own may have no row in the embedding
        ids = [[0] * n + list(row.ids) for n, row in zip(missing, rows, strict=True)]
        self.model = model
        self.ids = torch.tensor(ids, device=device)
        self.mask = torch.tensor([[0] * n + [1] * (width - n) for n in missing], device=device)
        self.padded = any(missing)  # decided once: attention with a mask may round differently from without
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.placement: torch.Tensor | None = None
        if isinstance(model, Blend):  # there every row has a recipe
            self.placement = model.place(cast(list[Recipe], [row.recipe for row in rows]))
        samplings = [row.sampling for row in rows]
        self.sampler = Sampler(samplings, [row.seed for row in rows], [row.ids for row in rows], device)
        # positions that each row may come to; its last token is not read
        limits = [len(row.ids) + row.sampling.max_new_tokens - 1 for row in rows]
        self.lengths = torch.tensor(limits, device=device)
        self.rope = find_long_rope(model)
        self.cache = DynamicCache(config=model.config)
        replace_layers(self.cache)

    def step(self) -> list[int]:
        """One forward pass; the next token of every row."""
        if self.placement is not None:
            self.model.put(self.placement)  # another batch may have had the model since
        with row_lengths(self.rope, self.lengths):
            out = self.model(
                input_ids=self.ids,
                attention_mask=self.mask if self.padded else None,
                position_ids=self.positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits = out.logits[:, -1]
        refuse_nan(logits)
        tokens = self.sampler(logits.float())
        self.ids = tokens[:, None]
        self.positions = self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        return tokens.tolist()

    def filter(self, keep: list[int]) -> None:
        """Keep only the rows at these positions."""
        if not keep:
            return  # the batch is over
        chosen = torch.tensor(keep, device=self.ids.device)
        self.ids, self.mask, self.positions = self.ids[chosen], self.mask[chosen], self.positions[chosen]
        if self.placement is not None:
            self.placement = self.placement[chosen]
        self.lengths = self.lengths[chosen]
        self.cache.batch_select_indices(chosen)
        self.sampler.filter(chosen)


class IncrementalDetokenizer:
    """The tokens of one row as text, trace and answer apart. A character waits for the last of its tokens.

    Ours because tokenizers.DecodeStream works token by token, while here many are read at once whenever
    somebody looks, and because it never gives back half a character at the end of a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, row: Row, index: int):
        self.tokenizer, self.row, self.index = tokenizer, row, index
        self.ids: list[int] = []
        self.parser = ThinkParser(row.prefilled, row.tags)
        self.text = ""
        # ids[:_end] are in `text`; ids[_context:_end] are the context of what follows
        self._context = 0
        self._end = 0

    def add(self, token: int) -> int:
        """Append a token; returns how many there are."""
        self.ids.append(token)
        return len(self.ids)

    def read(self, last: bool = False) -> bool:
        """Turn new tokens into text, half a character only if it is the `last`. True when there was some."""
        before = self._decode(self.ids[self._context : self._end])
        after = self._decode(self.ids[self._context :])
        if not last and after.endswith("\ufffd"):
            return False
        piece = after[len(before) :]
        self._context, self._end = self._end, len(self.ids)
        self.text += piece
        self.parser.feed(piece)
        return bool(piece)

    def _decode(self, ids: list[int]) -> str:
        # special tokens are kept: skipping them would lose the tags where a vocabulary calls them special
        return cast(str, self.tokenizer.decode(ids))

    def chunk(self, finish: str | None = None) -> Chunk:
        p = self.parser
        text = self.text if finish else ""
        return Chunk(self.index, p.trace, p.answer, p.thinking, len(self.ids), finish, p.state, text)

    def end(self, finish: str) -> Chunk:
        self.read(last=True)
        self.parser.close()
        return self.chunk(finish)
