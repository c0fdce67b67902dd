"""Models of equal size: the width, and the inner width of the feed-forward layers, that give a model so many parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from ..training.defaults import DEFAULTS, ModelDefaults
from ..training.options import TrainOptions

TOLERANCE = 0.02  # of the parameters asked for
HEAD_STEPS = (8, 2)  # widths of a head are multiples of it: whole vectors of the kernels, or where that does not fit, even as rotary needs
WIDEST = 16384
INNER = (0.5, 16.0)  # the inner width over the width, at least and at most

Count = Callable[[int, int | None], int]  # parameters of a width and an inner width; None: the model's own multiple of the width


@dataclasses.dataclass(frozen=True)
class Size:
    """A width, an inner width (None: the model's own multiple), and the parameters that they make."""

    dim: int
    inner: int | None
    parameters: int


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
    steps = [step * (options.heads or 1) for step in HEAD_STEPS]
    found = nearest(parameters, lambda dim, inner: count(_with(options, dim, inner)), steps)
    chosen = _with(options, found.dim, found.inner)
    if abs(found.parameters / parameters - 1) > TOLERANCE:
        raise ValueError(
            f"cannot have {parameters:,} parameters: the nearest is {found.parameters:,}, with dim={chosen.dim} and "
            f"ff_mult={chosen.fields.get('ff_mult', usual):.3g}; to compare it too, give --parameters {in_short(found.parameters)}"
        )
    return chosen


def nearest(parameters: int, count: Count, steps: Sequence[int]) -> Size:
    """The size whose parameters come nearest, or the first within half of `TOLERANCE`.

    Args:
        steps: what widths may be multiples of, the first tried first.
    """
    found: list[Size] = []
    for step in steps:
        for dim in _widths(parameters, count, step):
            chosen = _fitted(dim, parameters, count)
            if abs(chosen.parameters / parameters - 1) <= TOLERANCE / 2:
                return chosen
            found.append(chosen)
    return min(found, key=lambda size: abs(size.parameters / parameters - 1))


def in_short(parameters: int) -> str:
    """Three digits and a unit, as `--parameters` takes them: 137k."""
    scale, unit = next(((scale, unit) for scale, unit in ((10**9, "b"), (10**6, "m"), (10**3, "k")) if parameters >= scale), (1, ""))
    return f"{parameters / scale:.3g}{unit}"


def default_options(name: str, options: TrainOptions) -> TrainOptions:
    """A model's defaults for a window of `options.context` tokens: what they say of a length is stretched with it."""
    defaults = DEFAULTS.get(name, ModelDefaults())
    fields = dict(defaults.fields)
    if "latents" in fields and options.context is not None:
        fields["latents"] = max(1, options.context // 2)
    return dataclasses.replace(options, model=name, dim=defaults.dim, depth=defaults.depth, heads=defaults.heads, fields=fields)


def _widths(parameters: int, count: Count, step: int) -> list[int]:
    """Multiples of `step`, the likeliest first: around where the count passes `parameters`."""
    low, high = 1, max(1, WIDEST // step)
    while low < high:  # the first that has enough
        middle = (low + high) // 2
        if count(middle * step, None) >= parameters:
            high = middle
        else:
            low = middle + 1
    near = {place for place in (low - 2, low - 1, low, low + 1) if place >= 1}
    return [place * step for place in sorted(near, key=lambda place: abs(math.log(count(place * step, None) / parameters)))]


def _fitted(dim: int, parameters: int, count: Count) -> Size:
    """With the inner width that brings the count nearest to `parameters`."""
    low, high = (max(1, round(share * dim)) for share in INNER)
    while low < high:  # whole numbers: the least inner width that has enough
        middle = (low + high) // 2
        if count(dim, middle) >= parameters:
            high = middle
        else:
            low = middle + 1
    candidates = [Size(dim, inner, count(dim, inner)) for inner in (low - 1, low) if inner >= 1]
    return min(candidates, key=lambda size: abs(size.parameters - parameters))


def _with(options: TrainOptions, dim: int, inner: int | None) -> TrainOptions:
    fields: dict[str, Any] = dict(options.fields)
    if inner is not None:
        fields["ff_mult"] = round((inner + 0.5) / dim, 6)  # int(dim * ff_mult) is inner, whatever is rounded
    return dataclasses.replace(options, dim=dim, fields=fields)
