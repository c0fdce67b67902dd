"""Which tokens a row has had lately, for the repetition penalty.

Axes: B batch, N length, V vocabulary, R width of the window.
"""

import torch
from torch import Tensor


class Recent:
    """The tokens of each row so far: all of them, or the last ``window``.

    Args:
        batch_size: B.
        vocab_size: V.
        window: None: all.
        device: of the tokens.
    """

    def __init__(self, batch_size: int, vocab_size: int, *, window: int | None, device: torch.device):
        self.vocab_size, self.window = vocab_size, window
        # One column more than there are tokens: padding is counted there, and never looked at.
        self._seen = torch.zeros(batch_size, vocab_size + 1, dtype=torch.bool, device=device)
        self._last = torch.full((batch_size, window or 0), vocab_size, dtype=torch.int64, device=device)

    def add(self, tokens: Tensor, mask: Tensor | None = None) -> None:
        """The next tokens (B, N) of each row; ``mask`` (B, N) bool, True = real token."""
        if self.window is None:
            marked = tokens if mask is None else tokens.masked_fill(~mask, self.vocab_size)
            self._seen = self._seen.scatter(1, marked, True)
            return
        if mask is not None:
            tokens = tokens.masked_fill(~mask, self.vocab_size)
        rows = torch.cat((self._last, tokens), dim=1)
        if mask is not None:  # padding to the left, where the window loses it first
            real = torch.cat((torch.ones_like(self._last, dtype=torch.bool), mask), dim=1)
            rows = rows.gather(1, real.to(torch.uint8).argsort(dim=1, stable=True))
        self._last = rows[:, -self.window :]

    def before(self) -> Tensor:
        """(B, V) bool: the tokens that were there."""
        seen = self._seen if self.window is None else self._seen.scatter(1, self._last, True)
        return seen[:, : self.vocab_size]

    def repeat(self, count: int) -> None:
        """Each row ``count`` times in a row."""
        self._seen, self._last = (rows.repeat_interleave(count, dim=0) for rows in (self._seen, self._last))
