"""One decode loop for everything. Rows in, Chunks out.

Rows of one batch may differ in prompt, recipe, sampling, seed and limit. A finished row leaves the batch, so one long
row does not make all of them pay; a cancel takes effect within one step; each row draws from its own random stream,
so its text does not depend on who shares its batch (but for ties closer than rounding, about 1e-6; for the same bits
the batch must be the same).
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from thinkswitch.recipe import Recipe
from thinkswitch.think_parser import ThinkParser
from thinkswitch.weights.live_blend import Blend


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_k 0 and top_p 1 switch those filters off (in the order of transformers)."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Row:
    ids: tuple[int, ...]  # the prompt, template applied
    sampling: Sampling = Sampling()
    seed: int = 0
    prefilled: bool = False  # the template has opened the trace
    recipe: Recipe | None = None  # where on a Blend; None on a plain model


@dataclass(frozen=True)
class Chunk:
    """What a row has said so far. The last chunk of a row has `finish`: stop | length | cancel."""

    row: int
    trace: str
    answer: str
    thinking: bool  # the newest text is trace
    tokens: int
    finish: str | None = None
    state: str = "none"  # how the text is built: see trace.Stream
    text: str = ""  # raw, with tags; on the last chunk only


@torch.inference_mode()  # as a decorator: each next() may come from another thread
def generate(model, tokenizer: PreTrainedTokenizerBase, rows: list[Row], stops: set[int], batch: int = 64,
             stream: bool = True, cancelled: Callable[[], bool] = lambda: False, every: float = 0.0) -> Iterator[Chunk]:
    """Decode `rows`, at most `batch` at once, in groups of like length. `stream=False` yields last chunks only; `every` is
    the least time in seconds between two chunks of a row that is not finished."""
    for group in group_rows(rows, batch):
        yield from _decode(model, tokenizer, rows, group, stops, stream, cancelled, every)


def group_rows(rows: list[Row], batch: int) -> list[list[int]]:
    """Which rows share a batch. Long prompts come first: what does not fit is known at once."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), i))
    return [order[start:start + batch] for start in range(0, len(rows), batch)]


def _decode(model, tokenizer, rows, live: list[int], stops, stream, cancelled, every) -> Iterator[Chunk]:
    device = next(model.parameters()).device
    writers = {i: IncrementalDetokenizer(tokenizer, rows[i], i) for i in live}
    width = max(len(rows[i].ids) for i in live)
    pad = tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (width - len(rows[i].ids)) + list(rows[i].ids) for i in live], device=device)
    mask = torch.tensor([[0] * (width - len(rows[i].ids)) + [1] * len(rows[i].ids) for i in live], device=device)
    padded = bool((mask == 0).any())
    position = (mask.cumsum(1) - 1).clamp(min=0)
    placement = model.place([rows[i].recipe for i in live]) if isinstance(model, Blend) else None
    cache = DynamicCache(config=model.config)
    cache.layers = [PreallocatedCacheLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    sampler, told = Sampler([rows[i] for i in live], device), time.monotonic()
    while live:
        if cancelled():  # meanwhile it may have lent the model to another batch
            for i in live:
                yield writers[i].end("cancel")
            return
        if placement is not None:
            model.put(placement)
        out = model(input_ids=ids, attention_mask=mask if padded else None, position_ids=position,
                    past_key_values=cache, use_cache=True, logits_to_keep=1)
        tokens = sampler(out.logits[:, -1].float())
        keep, now = [], time.monotonic()
        due = stream and now - told >= every
        told = now if due else told
        for place, (i, token) in enumerate(zip(live, tokens.tolist())):
            writer = writers[i]
            if token in stops:
                yield writer.end("stop")
            elif writer.add(token) >= rows[i].sampling.max_new_tokens:
                yield writer.end("length")
            else:
                keep.append(place)
                if due and writer.read():
                    yield writer.chunk()
        if len(keep) < len(live):
            live = [live[place] for place in keep]
            chosen = torch.tensor(keep, device=device, dtype=torch.long)
            if not live:
                return
            cache.batch_select_indices(chosen)
            sampler.select(chosen)
            if placement is not None:
                placement = placement[chosen]
            mask, position, tokens = mask[chosen], position[chosen], tokens[chosen]
        ids, position = tokens[:, None], position[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], 1)


class PreallocatedCacheLayer(DynamicLayer):
    """Keys and values (rows, heads, length, size) in room made ahead; torch.cat copies the whole cache at every token."""

    room: list[torch.Tensor] | None = None

    def update(self, keys: torch.Tensor, values: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        old, new = self.get_seq_length(), self.get_seq_length() + keys.shape[-2]
        if self.room is None or new > self.room[0].shape[-2]:
            grown = [x.new_empty(*x.shape[:2], new + max(64, new // 4), x.shape[-1]) for x in (keys, values)]
            for room, before in zip(grown, (self.keys, self.values) if old else ()):
                room[:, :, :old] = before
            self.room = grown
        for room, x in zip(self.room, (keys, values)):
            room[:, :, old:new] = x
        self.keys, self.values = (room[:, :, :new] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        used = self.get_seq_length()
        self.room = [room[indices] for room in self.room]
        self.keys, self.values = (room[:, :, :used] for room in self.room)


class IncrementalDetokenizer:
    """One row's tokens as text: whole characters only, trace and answer apart."""

    def __init__(self, tokenizer, row: Row, index: int):
        self.tokenizer, self.index = tokenizer, index
        self.ids: list[int] = []
        self.split = ThinkParser(row.prefilled)
        self.text = ""
        self._done = self._shown = 0  # ids[:_done] are in text; ids[_shown:_done] are the context of the next piece

    def add(self, token: int) -> int:
        self.ids.append(token)
        return len(self.ids)

    def read(self, last: bool = False) -> bool:
        """Turn new tokens into text; a character cut in half waits. True when there was some."""
        # special tokens are kept: skipping them would lose tags where a vocabulary calls them special
        before = self.tokenizer.decode(self.ids[self._shown:self._done])
        after = self.tokenizer.decode(self.ids[self._shown:])
        if not last and after.endswith("\ufffd"):
            return False
        piece = after[len(before):]
        self._shown, self._done = self._done, len(self.ids)
        self.text += piece
        self.split.feed(piece)
        return bool(piece)

    def chunk(self, finish: str | None = None) -> Chunk:
        split = self.split
        return Chunk(self.index, split.trace, split.answer, split.thinking, len(self.ids), finish, split.state,
                     self.text if finish else "")

    def end(self, finish: str) -> Chunk:
        self.read(last=True)
        self.split.close()
        return self.chunk(finish)


class Sampler:
    """Next tokens of a batch, each row by its own settings and its own random stream."""

    def __init__(self, rows: list[Row], device):
        self.random = [random.Random(row.seed) for row in rows]
        settings = [(r.sampling.temperature, r.sampling.top_p, r.sampling.top_k) for r in rows]
        self.temperature, self.top_p, self.top_k = torch.tensor(settings, dtype=torch.float32, device=device)[:, :, None].unbind(1)
        self._look()

    def _look(self) -> None:
        self.all_greedy = bool((self.temperature == 0).all())
        self.widest = int(self.top_k.max()) if bool((self.top_k > 0).all()) else 0

    def select(self, rows: torch.Tensor) -> None:
        self.random = [self.random[i] for i in rows.tolist()]
        self.temperature, self.top_p, self.top_k = self.temperature[rows], self.top_p[rows], self.top_k[rows]
        self._look()

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """logits (rows, vocabulary) in float32 -> token ids (rows,)."""
        best = logits.argmax(-1)
        if self.all_greedy:
            return best
        draw = torch.tensor([[r.random()] for r in self.random], dtype=torch.float32, device=logits.device)
        vocabulary = logits.shape[-1]
        width = min(self.widest or vocabulary, vocabulary)
        scaled = logits / self.temperature.clamp(min=1e-6)
        values, ids = scaled.topk(width, dim=-1)  # sorted
        rank = torch.arange(width, device=logits.device)
        values = values.masked_fill((self.top_k > 0) & (rank >= self.top_k), -torch.inf)
        p = values.softmax(-1)
        p = p.masked_fill(p.cumsum(-1) - p >= self.top_p, 0.0)  # the smallest set that reaches top_p
        edges = p.cumsum(-1)
        place = (edges < draw * edges[:, -1:]).sum(-1, keepdim=True).clamp(max=width - 1)
        return torch.where(self.temperature[:, 0] == 0, best, ids.gather(-1, place)[:, 0])
