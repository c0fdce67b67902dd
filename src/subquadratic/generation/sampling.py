"""Choosing the next token from logits.

Axes: B batch, V vocabulary.
"""

import torch
from torch import Tensor

from ..ops.errors import require, require_positive


def check_sampling(*, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Ranges of the sampling options.

    Raises:
        ValueError: naming the option that is out of range.
    """
    require(temperature >= 0, f"temperature must be at least 0 (0 = always the likeliest token), got {temperature!r}")
    require_positive(top_k=top_k)
    require(top_p is None or 0 < top_p <= 1, f"top_p must be greater than 0 and at most 1, got {top_p!r}")


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """(B, V) with all but the ``k`` largest of each row at -inf. ``k`` over V keeps all; of equal logits at the border, all stay."""
    if k >= logits.shape[-1]:
        return logits
    border = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < border, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """(B, V) with all but the nucleus at -inf: the fewest likeliest tokens whose probabilities reach ``p`` (arXiv 1904.09751); one at
    least."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # what the likelier ones have together
    ordered = ordered.masked_fill(before >= p, -torch.inf)
    return torch.empty_like(logits).scatter(-1, order, ordered)


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token per row.

    Args:
        logits: (B, V).
        temperature: divides the logits first; 0 takes the likeliest token.
        top_k: keep that many of the likeliest tokens.
        top_p: then keep the nucleus of this probability.
        generator: source of randomness, on the device of ``logits``.

    Returns:
        (B,) int64.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(-1)
