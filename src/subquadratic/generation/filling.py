"""Filling in masked tokens with a bidirectional model.

Axes: B batch, N length, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import check_mask, require
from ..core.scalars import as_number
from ..layers.modes import evaluating
from .sampling import sample
from .sampling_options import check_sampling


class Filled(NamedTuple):
    """Places that were filled together."""

    places: Tensor  # (P, 2) int64: row and position of each
    tokens: Tensor  # (P,) int64, what stands there now
    probabilities: Tensor  # (P, V) float32, the model's own distribution there, given what was filled before


def fill_steps(
    model: Any,
    tokens: Tensor,
    masked: Tensor,
    *,
    mask: Tensor | None = None,
    at_once: bool = False,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    banned: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[Filled]:
    """Fill in masked tokens, the most certain first.

    Each pass fills in, in every row, the one position whose most likely token has the highest probability; the next pass sees that token.
    So M masked tokens in a row take M passes of the model.

    Args:
        model: bidirectional, called as ``model(tokens, mask=mask, masked=masked)``; in eval mode meanwhile.
        tokens: (B, N) int64; anything in the vocabulary at masked places.
        masked: (B, N) bool, True = to be filled in.
        mask: (B, N) bool, True = real token.
        at_once: fill in all positions in one pass, independently of each other.
        temperature: 0 takes the most likely token; otherwise tokens are sampled, in the same order of positions.
        top_k, top_p, min_p: as in :class:`Sampling`.
        banned: tokens that are never chosen (special ones); the probabilities are those without them.
        generator: source of randomness, on the device of ``tokens``.

    Yields:
        What each pass filled in.

    Raises:
        ValueError: for options out of range, wrong shapes, no masked place, or NaN from the model.
    """
    temperature, top_k, top_p, min_p = map(as_number, (temperature, top_k, top_p, min_p))
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    check_mask(mask, *tokens.shape)
    check_mask(masked, *tokens.shape, name="masked")
    masked = masked if mask is None else masked & mask
    require(bool(masked.any()), "masked must mark at least one token to fill in")

    drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    return _steps(model, tokens, masked, mask, at_once, list(banned), drawing, generator)


def _steps(
    model: Any,
    tokens: Tensor,
    left: Tensor,
    mask: Tensor | None,
    at_once: bool,
    banned: list[int],
    drawing: dict[str, Any],
    generator: torch.Generator | None,
) -> Iterator[Filled]:
    with evaluating(model):
        while bool(left.any()):
            with torch.no_grad():
                logits = model(tokens, mask=mask, masked=left).float()
                logits[..., banned] = -torch.inf
                probabilities = logits.softmax(dim=-1)
                places = left if at_once else _most_certain(probabilities.amax(dim=-1), left)
                chosen = sample(logits[places], generator=generator, **drawing)
                tokens, left = tokens.masked_scatter(places, chosen), left & ~places
            yield Filled(places.nonzero(), chosen, probabilities[places])


def fill(model: Any, tokens: Tensor, masked: Tensor, **options: Any) -> Tensor:
    """``tokens`` (B, N) with the masked ones filled in; options as in :func:`fill_steps`."""
    for step in fill_steps(model, tokens, masked, **options):
        rows, positions = step.places.unbind(dim=1)
        tokens = tokens.index_put((rows, positions), step.tokens)
    return tokens


def _most_certain(certainty: Tensor, left: Tensor) -> Tensor:
    """(B, N) bool: of the places left, the one of each row with the highest ``certainty``; none of a row that has none left."""
    best = certainty.masked_fill(~left, -1.0).argmax(dim=1, keepdim=True)
    return torch.zeros_like(left).scatter(1, best, True) & left
