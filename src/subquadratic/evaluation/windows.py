"""Windows over a text, cut so that every token but the first is predicted exactly once, and the losses of what they score.

All windows are equally long. Each scores the tokens that no window before it did: the last one, moved back to end with the text,
only what is left. A Perceiver AR predicts the last tokens of a window only, so its windows advance by as many, and of the first one
it reads shorter and shorter beginnings. A masked model reads each window several times, and in each pass other tokens are hidden.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..compat.continuation import Continuation
from ..core.errors import NotCausalError
from .text import Text

Batch = dict[str, Tensor]
PASSES = 7  # of a masked model over a window: each hides one token in seven, close to the share hidden in training


class TextWindows(Dataset[Batch]):
    """Item i: `tokens` (length,) int64; `scored` (length,) bool, those that it predicts; and, for a masked model, `masked` (length,)
    bool, those that are hidden in it.

    Args:
        text: at least as long as a window.
        length: tokens in a window, at least 2; the last one is predicted and not read, unless the model is a masked one.
        advance: how many tokens a window predicts at most; `reach` tells.
        masked: for a masked model, which may also predict the first token of a window.
        seed: of what is hidden.
    """

    def __init__(self, text: Text, *, length: int, advance: int, masked: bool = False, seed: int = 0) -> None:
        if not 2 <= length <= len(text):
            raise ValueError(f"length must be at least 2 and at most {len(text):,}, the tokens of the text, got {length:,}")
        self.text, self.length, self.advance, self.seed = text, length, advance, seed
        self.passes = min(PASSES, length) if masked else 0

    def __len__(self) -> int:
        return (1 + -(-(len(self.text) - self.length) // self.advance)) * max(self.passes, 1)

    def __getitem__(self, index: int) -> Batch:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        number, turn = divmod(index % len(self), max(self.passes, 1))
        before = self.length + (number - 1) * self.advance if number else 1  # tokens that need no prediction any more
        start = min(number * self.advance, len(self.text) - self.length)
        item = {"tokens": self.text.read(start, start + self.length), "scored": torch.arange(start, start + self.length) >= before}
        if self.passes:
            turns = np.random.default_rng([self.seed, number]).permutation(self.length) % self.passes
            item["masked"] = torch.from_numpy(turns == turn)
            item["scored"] &= item["masked"]
        return item


def stacked(items: list[Batch]) -> Batch:
    """A batch of such items."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def is_causal(model: Any) -> bool:
    """Whether a language model, ours or one of a published package, predicts next tokens."""
    config = getattr(model, "config", None)
    if config is not None:
        return bool(config.causal)
    try:
        Continuation(model)
    except NotCausalError:
        return False
    return True


def reach(model: Any, length: int) -> int:
    """How many of `length` tokens, the last ones, a model predicts at once."""
    if not is_causal(model):
        return length
    prefix = min(getattr(model, "cross_attn_seq_len", 0), length - 2)  # a published Perceiver AR's, which is read and not predicted
    return max(1, min(length - 1 - prefix, getattr(getattr(model, "config", None), "latents", length)))


@torch.no_grad()
def scored_losses(
    model: Any, tokens: Tensor, scored: Tensor, *, masked: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The losses of scored tokens, also of those that one look at a row does not predict.

    Args:
        model: a language model in eval mode.
        tokens: (B, N) int64.
        scored: (B, N) bool; the first token of a row has nothing before it and is never predicted by a causal model.
        masked: (B, N) bool, what is hidden from a masked model.

    Returns:
        Four tensors (T,): nats, whether the most likely token was right, the tokens, and their places in the rows.
    """
    found = []
    while tokens.shape[1] >= (1 if masked is not None else 2):
        covered = reach(model, tokens.shape[1])
        now = scored.clone()
        now[:, : tokens.shape[1] - covered] = False
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)[now]
        if len(places):
            found.append((*_losses(model, tokens, now, masked), places))
        left = scored.shape[1] - covered
        rows = scored[:, 1 if masked is None else 0 : left].any(dim=1)
        if left < 2 or not bool(rows.any()):
            break
        tokens, scored = tokens[rows, :left], scored[rows, :left]
    if not found:
        empty = tokens.new_zeros(0)
        return empty.float(), empty.bool(), empty, empty
    nats, right, targets, places = (torch.cat(part) for part in zip(*found, strict=True))
    return nats, right, targets, places


def _losses(model: Any, tokens: Tensor, scored: Tensor, masked: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if hasattr(model, "token_losses"):
        return model.token_losses(tokens, scored=scored, **({} if masked is None else {"masked": masked}))
    logits, targets = model(tokens[:, :-1]).float(), tokens[:, 1:]
    counted = scored[:, 1:][:, -logits.shape[1] :]
    logits, targets = logits[counted], targets[:, -logits.shape[1] :][counted]
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(dim=-1) == targets, targets
