"""Repetition and presence penalty: what a row has read or written counts against it. See `Sampling`."""

import torch

READ, WRITTEN = 1, 2  # a token of the prompt; of the answer, whether or not the prompt has it, too


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
        self.prompts = prompts
        self.repetition = torch.tensor(repetition, dtype=torch.float32, device=device)[:, None]
        self.presence = torch.tensor(presence, dtype=torch.float32, device=device)[:, None]
        # (rows, vocabulary): 0, READ or WRITTEN, a byte each; made by the first logits, which know its width
        self.seen: torch.Tensor | None = None

    @property
    def in_use(self) -> bool:
        return bool((self.repetition != 1).any() or (self.presence != 0).any())

    def filter(self, keep: torch.Tensor) -> None:
        """Keep only the rows at these positions."""
        self.prompts = [self.prompts[i] for i in keep.tolist()]
        self.repetition, self.presence = self.repetition[keep], self.presence[keep]
        if self.seen is not None:
            self.seen = self.seen[keep]

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) in float32, lowered; a row without penalties keeps its own to the bit."""
        if self.seen is None:
            self.seen = self._read_prompts(logits)
        # dividing a negative logit would raise it
        lowered = torch.where(logits < 0, logits * self.repetition, logits / self.repetition)
        lowered = torch.where(self.seen > 0, lowered, logits)
        return torch.where(self.seen == WRITTEN, lowered - self.presence, lowered)

    def add(self, tokens: torch.Tensor) -> None:
        """Note the next token (rows,) of every row."""
        assert self.seen is not None
        self.seen.scatter_(1, tokens[:, None], WRITTEN)

    def _read_prompts(self, logits: torch.Tensor) -> torch.Tensor:
        seen = torch.zeros(logits.shape, dtype=torch.uint8, device=logits.device)
        for row, ids in zip(seen, self.prompts, strict=True):
            row[torch.tensor(ids, dtype=torch.long, device=logits.device)] = READ
        return seen
