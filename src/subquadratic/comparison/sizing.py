"""Models of equal size: the width, and the inner width of the feed-forward layers, that give a model so many parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from ..training.defaults import DEFAULTS, ModelDefaults
from ..training.options import TrainOptions

TOLERANCE = 0.02  # of the parameters asked for
HEAD_STEPS = (8, 2)  # widths of a head are multiples of it: whole vectors of the kernels, or where that does not fit, even as rotary needs
WIDEST = 16384
INNER = (0.5, 16.0)  # the inner width over the width, at least and at most
TRIES = 24  # halvings of that range; an inner width is a whole number, which is reached before


def sized(options: TrainOptions, parameters: int, count: Callable[[TrainOptions], int]) -> TrainOptions:
    """The options with `dim` and `fields.ff_mult` so that the model has `parameters`, within `TOLERANCE`.

    The width is the one whose model, with the inner width that is this model's default, comes nearest; the inner width is then moved. Depth
    and heads stay: they are the model's own defaults (`training/defaults.py`), as are all other fields.

    Args:
        count: how many parameters options make, without weights.

    Raises:
        ValueError: no width and inner width do.
    """
    usual = options.fields.get("ff_mult", 4.0)
    found: list[tuple[float, TrainOptions]] = []
    for step in HEAD_STEPS:
        for dim in _widths(options, parameters, count, step * (options.heads or 1)):
            chosen = _fitted(_with(options, dim=dim), parameters, count)
            off = abs(count(chosen) / parameters - 1)
            if off <= TOLERANCE / 2:
                return chosen
            found.append((off, chosen))
    off, chosen = min(found, key=lambda pair: pair[0])
    if off > TOLERANCE:
        raise ValueError(
            f"cannot have {parameters:,} parameters: the nearest is {count(chosen):,}, with dim={chosen.dim} and "
            f"ff_mult={chosen.fields.get('ff_mult', usual):.3g}"
        )
    return chosen


def default_options(name: str, options: TrainOptions) -> TrainOptions:
    """A model's defaults for a window of `options.context` tokens: what they say of a length is stretched with it."""
    defaults = DEFAULTS.get(name, ModelDefaults())
    fields = dict(defaults.fields)
    if "latents" in fields and options.context is not None:
        fields["latents"] = max(1, options.context // 2)
    return dataclasses.replace(options, model=name, dim=defaults.dim, depth=defaults.depth, heads=defaults.heads, fields=fields)


def _widths(options: TrainOptions, parameters: int, count: Callable[[TrainOptions], int], step: int) -> list[int]:
    """Multiples of `step`, the likeliest first: around where the count passes `parameters`."""
    low, high = 1, max(1, WIDEST // step)
    while low < high:  # the first that has enough
        middle = (low + high) // 2
        if count(_with(options, dim=middle * step)) >= parameters:
            high = middle
        else:
            low = middle + 1
    near = {place for place in (low - 2, low - 1, low, low + 1) if place >= 1}
    return [place * step for place in sorted(near, key=lambda place: abs(math.log(count(_with(options, dim=place * step)) / parameters)))]


def _fitted(options: TrainOptions, parameters: int, count: Callable[[TrainOptions], int]) -> TrainOptions:
    """With the inner width that brings the count nearest to `parameters`."""
    assert options.dim is not None
    low, high = (max(1, round(share * options.dim)) for share in INNER)
    while low < high:  # whole numbers: the least inner width that has enough
        middle = (low + high) // 2
        if count(_with(options, inner=middle)) >= parameters:
            high = middle
        else:
            low = middle + 1
    candidates = [_with(options, inner=inner) for inner in (low - 1, low) if inner >= 1]
    return min(candidates, key=lambda candidate: abs(count(candidate) - parameters))


def _with(options: TrainOptions, *, dim: int | None = None, inner: int | None = None) -> TrainOptions:
    fields: dict[str, Any] = dict(options.fields)
    dim = options.dim if dim is None else dim
    assert dim is not None
    if inner is not None:
        fields["ff_mult"] = round((inner + 0.5) / dim, 6)  # int(dim * ff_mult) is inner, whatever is rounded
    return dataclasses.replace(options, dim=dim, fields=fields)
