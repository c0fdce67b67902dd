"""Choosing the next token from logits.

The order of operations, which is that of Hugging Face's `generate`:

1. the repetition penalty changes the logits of tokens that were there before;
2. the temperature divides the logits;
3. top-k, 4. top-p, 5. min-p each take tokens away; probabilities are taken anew after each;
6. one of the tokens left is drawn.

Temperature 0 stops after step 1: the likeliest token. Rows never influence each other, except that they draw from one generator.

Axes: B batch, V vocabulary.
"""

import math

import torch
from torch import Tensor

from ..core.errors import require

FEW = 1024  # the likeliest tokens that are looked at first: most nuclei are smaller
MANY = 4096  # tokens: a processor takes longer over so many random numbers than over the rest of the choice

# What `stream` takes beside these; here so that a wrong keyword finds its nearest.


def penalise(logits: Tensor, before: Tensor, penalty: float) -> Tensor:
    """(B, V) with the logits of tokens that were there before, (B, V) bool, divided by ``penalty`` where positive and multiplied by it
    where negative."""
    return torch.where(before, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """(B, V) with all but the ``k`` largest of each row at -inf. ``k`` over V keeps all; of equal logits at the border, all stay."""
    if k >= logits.shape[-1]:
        return logits
    border = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < border, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """(B, V) with all but the nucleus at -inf: the fewest likeliest tokens whose probabilities reach ``p``; one at least."""
    if p >= 1:
        return logits
    probabilities = logits.softmax(dim=-1)
    ordered, order = logits.topk(min(FEW, logits.shape[-1]), dim=-1)  # logits tell apart what is equally likely to rounding
    found = probabilities.gather(-1, order)
    # Seldom are more in the nucleus; then all must be put in order.
    if found.shape[-1] < logits.shape[-1] and not bool((found.sum(dim=-1) >= p).all()):
        ordered, order = logits.sort(dim=-1, descending=True)
        found = probabilities.gather(-1, order)
    before = found.cumsum(dim=-1) - found  # what the likelier ones have together
    kept = ordered.masked_fill(before >= p, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter_(-1, order, kept)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """(B, V) with the tokens less than ``p`` times as likely as the row's likeliest at -inf; the likeliest always stays."""
    if p <= 0:
        return logits
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -torch.inf)


def filtered(
    logits: Tensor, *, temperature: float, top_k: int | None = None, top_p: float | None = None, min_p: float | None = None
) -> Tensor:
    """Logits (B, V) float32 whose softmax is what a token is drawn from, for a ``temperature`` above 0. At least one per row is finite,
    whatever the row was: with all at -inf all are equally likely, and +inf counts as very large.

    Raises:
        ValueError: if a logit is NaN.
    """
    top = logits.amax(dim=-1, keepdim=True)
    if not math.isfinite(float(top.sum())):  # nor where the sum is too large, which does no harm
        _refuse_nan(top)
        logits = logits.float().nan_to_num(posinf=torch.finfo(torch.float32).max, neginf=-torch.inf)
        top = logits.amax(dim=-1, keepdim=True)
        logits, top = (torch.where(top == -torch.inf, 0.0, tensor) for tensor in (logits, top))
    # The likeliest at 0 first: then no temperature, however near 0, overflows.
    scaled = (logits.float() - top.float()).div_(min(max(temperature, 1e-20), 1e20))
    if top_k is not None:
        scaled = keep_top_k(scaled, top_k)
    if top_p is not None:
        scaled = keep_top_p(scaled, top_p)
    return scaled if min_p is None else keep_min_p(scaled, min_p)


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token per row.

    Args:
        logits: (B, V), after any repetition penalty.
        temperature, top_k, top_p, min_p: see :class:`Sampling`.
        generator: source of randomness, on the device of ``logits``.

    Returns:
        (B,) int64.

    Raises:
        ValueError: if a logit is NaN.
    """
    if temperature == 0:
        top, chosen = logits.max(dim=-1)
        _refuse_nan(top)
        return chosen
    kept = filtered(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return _draw(kept.softmax(dim=-1), generator)


def _draw(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B, V) -> (B,) int64; never a token of probability 0."""
    if probabilities.shape[-1] <= MANY or probabilities.device.type != "cpu":
        # As torch.multinomial draws one, without its questions to the device.
        noise = torch.empty_like(probabilities).exponential_(generator=generator)
        return torch.div(probabilities, noise, out=noise).argmax(dim=-1)
    # One random number a row instead of one a token: the first token at which the sum of probabilities passes it.
    sums = probabilities.cumsum(dim=-1, dtype=torch.float64)
    share = torch.rand(*sums.shape[:-1], 1, dtype=torch.float64, generator=generator)
    below = torch.minimum(share * sums[..., -1:], sums[..., -1:].nextafter(sums.new_zeros(())))
    return torch.searchsorted(sums, below, right=True)[..., 0]


def _refuse_nan(top: Tensor) -> None:
    """``top``: the largest of each row, which is NaN if any is."""
    require(not bool(top.isnan().any()), "the model's logits are NaN: its weights are damaged, or overflow in this precision")
