"""How the next token is drawn: the settings of a row, and the sampler of a batch."""

import random
from dataclasses import dataclass

import torch

from thinkswitch.penalties import find_penalties

# Of a vocabulary's tokens: sorting 150,000 for each of 16 rows takes 0.2 s on a CPU, finding these 0.02
FIRST = 1024


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy. The others are off at their defaults.

    Meanings and order are those of transformers: repetition penalty (of what the prompt or the answer has),
    temperature, top_k, top_p, min_p (relative to the likeliest token). The presence penalty is vLLM's: after
    the repetition penalty, taken once from the logit of every token that the answer has.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0


GREEDY = Sampling()


class Sampler:
    """Next tokens of a batch, each row by its own settings and its own random stream.

    Ours because the logits processors of transformers have one setting and one random stream for all rows.
    """

    def __init__(
        self,
        samplings: list[Sampling],
        seeds: list[int],
        prompts: list[tuple[int, ...]],
        device: torch.device | str,
    ):
        self.random = [random.Random(seed) for seed in seeds]
        settings = [(s.temperature, s.top_p, s.top_k, s.min_p) for s in samplings]
        columns = torch.tensor(settings, dtype=torch.float32, device=device)[:, :, None]
        self.temperature, self.top_p, self.top_k, self.min_p = columns.unbind(1)  # (rows, 1) each
        repetition = [s.repetition_penalty for s in samplings]
        presence = [s.presence_penalty for s in samplings]
        self.penalties = find_penalties(prompts, repetition, presence, device)
        self._find_shortcuts()

    def _find_shortcuts(self) -> None:
        """Once for each set of rows, because reading a tensor waits for the GPU."""
        if self.penalties is not None and not self.penalties.in_use:
            self.penalties = None  # they would cost a pass over the vocabulary
        self.any_min_p = bool((self.min_p > 0).any())
        self.all_greedy = bool((self.temperature == 0).all())
        bounded = bool((self.top_k > 0).all())
        largest = int(self.top_k.max())
        self.first = largest if bounded else max(FIRST, largest)  # how many are sorted first

    def filter(self, keep: torch.Tensor) -> None:
        """Keep only the rows at these positions."""
        self.random = [self.random[i] for i in keep.tolist()]
        self.temperature, self.top_p = self.temperature[keep], self.top_p[keep]
        self.top_k, self.min_p = self.top_k[keep], self.min_p[keep]
        if self.penalties is not None:
            self.penalties.filter(keep)
        self._find_shortcuts()

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) in float32 -> token ids (rows,)."""
        if self.penalties is None:
            return self._choose(logits)
        tokens = self._choose(self.penalties.apply(logits))
        self.penalties.add(tokens)
        return tokens

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        best = logits.argmax(-1)
        if self.all_greedy:
            return best
        draw = torch.tensor([[r.random()] for r in self.random], dtype=torch.float32, device=logits.device)
        vocabulary = logits.shape[-1]
        scaled = logits / self.temperature.clamp(min=1e-6)
        tokens, certain = self._draw(scaled, draw, min(self.first, vocabulary))
        if not certain.all():
            tokens = torch.where(certain, tokens, self._draw(scaled, draw, vocabulary)[0])
        return torch.where(self.temperature[:, 0] == 0, best, tokens)

    def _draw(
        self, scaled: torch.Tensor, draw: torch.Tensor, width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens, whether they are certain), both (rows,): drawn from the `width` likeliest of each row.

        `draw` is (rows, 1), 0..1. Certain: all other tokens of the vocabulary would have changed nothing.
        """
        values, ids = scaled.topk(width, dim=-1)  # sorted, largest first
        rank = torch.arange(width, device=scaled.device)
        values = values.masked_fill((self.top_k > 0) & (rank >= self.top_k), -torch.inf)
        total = torch.where(self.top_k > 0, values.logsumexp(-1, True), scaled.logsumexp(-1, True))
        p = (values - total).exp()
        reached = p.cumsum(-1)
        kept = p.masked_fill(reached - p >= self.top_p, 0.0)  # the smallest set that reaches top_p
        if self.any_min_p:
            kept = kept.masked_fill(p < self.min_p * p[:, :1], 0.0)
        edges = kept.cumsum(-1)
        # the others are none, or would have been dropped
        closed = (self.top_k > 0) | (reached[:, -1:] >= self.top_p)
        closed |= p[:, -1:] < self.min_p * p[:, :1]
        closed |= width == scaled.shape[-1]
        target = draw * torch.where(closed, edges[:, -1:], 1.0)
        drawn = (edges < target).sum(-1, keepdim=True).clamp(max=width - 1)
        # where none would have been dropped, the draw may fall before them
        before = (self.top_k == 0) & (self.top_p >= 1) & (self.min_p == 0) & (target <= edges[:, -1:])
        return ids.gather(-1, drawn)[:, 0], (closed | before | (self.temperature == 0))[:, 0]
