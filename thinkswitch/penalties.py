"""Repetition and presence penalty: what a row has read or written counts against it. See `Sampling`."""

import torch


def find_penalties(
    prompts: list[tuple[int, ...]],
    repetition: list[float],
    presence: list[float],
    device: torch.device | str,
) -> "Penalties | None":
    """None where no row has a penalty."""
    if set(repetition) == {1.0} and set(presence) == {0.0}:
        return None
    return Penalties(prompts, repetition, presence, device)


class Penalties:
    """The penalties of a batch, each row by its own settings.

    Ours because the logits processors of transformers have one repetition penalty for all rows, count the
    padding on the left, and know no presence penalty.
    """

    def __init__(
        self,
        prompts: list[tuple[int, ...]],
        repetition: list[float],
        presence: list[float],
        device: torch.device | str,
    ):
        self.repetition = torch.tensor(repetition, dtype=torch.float32, device=device)[:, None]
        self.presence = torch.tensor(presence, dtype=torch.float32, device=device)[:, None]
        # (rows, tokens): first the prompts, the shorter ones filled up with a token that they have anyway
        self.width = max(len(ids) for ids in prompts)
        filled = [ids + ids[-1:] * (self.width - len(ids)) for ids in prompts]
        self.seen = torch.tensor(filled, device=device)

    @property
    def in_use(self) -> bool:
        return bool((self.repetition != 1).any() or (self.presence != 0).any())

    def filter(self, keep: torch.Tensor) -> None:
        """Keep only the rows at these positions."""
        self.repetition, self.presence, self.seen = (
            self.repetition[keep],
            self.presence[keep],
            self.seen[keep],
        )

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """A copy of logits (rows, vocabulary) in float32, lowered; rows without penalties keep every bit.

        A token that was seen twice is written twice, with the same value.
        """
        scores = logits.gather(1, self.seen)
        # dividing a negative logit would raise it
        scores = torch.where(scores < 0, scores * self.repetition, scores / self.repetition)
        lowered = logits.scatter(1, self.seen, scores)
        written = self.seen[:, self.width :]
        return lowered.scatter_(1, written, lowered.gather(1, written) - self.presence)

    def add(self, tokens: torch.Tensor) -> None:
        """Note the next token (rows,) of every row."""
        self.seen = torch.cat([self.seen, tokens[:, None]], 1)
