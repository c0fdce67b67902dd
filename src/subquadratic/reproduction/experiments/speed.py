"""Time against length: a Performer beside the identity line, a Fastformer beside exact attention.

Axes: B batch, N length, D width.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ... import models
from ...attention.additive.layer import AdditiveAttention
from ...attention.favor.layer import FavorAttention
from ...benchmark.timing import interleave
from ...benchmark.work import training_step
from ..claim import Measurement, Plot, Setting
from . import additive, favor_formula

Lines = dict[str, list[tuple[float, float]]]


class Identity(nn.Module):
    """In place of FAVOR+ in a layer: attention's answer is the values, the paper's "X" line."""

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> Tensor:
        return values


def performer(setting: Setting) -> Measurement:
    """A training step of one layer at the paper's width."""
    common: dict[str, Any] = dict(dim=512, depth=1, heads=8, causal=False)
    lengths = _lengths(setting, 13)

    def build() -> dict[str, nn.Module]:
        ideal = models.Performer(models.PerformerConfig(**common, features=256))
        for module in ideal.modules():
            if isinstance(module, FavorAttention):
                module.favor = Identity()  # type: ignore[assignment]
        return {
            "Performer": models.Performer(models.PerformerConfig(**common, features=256)),
            "identity": ideal,
            "exact": models.Transformer(models.TransformerConfig(**common)),
        }

    lines, sides = _training(build, lengths, setting, width=512)
    timed = next(module for module in sides["Performer"].modules() if isinstance(module, FavorAttention))
    assert timed.favor is not None
    longest = lengths[-1]
    times = {name: dict(points) for name, points in lines.items()}
    return Measurement(
        numbers={
            "slope": slope(lines["Performer"]),
            "slope of exact attention": slope(lines["exact"]),
            "over identity": times["Performer"][longest] / times["identity"][longest],
            "difference": favor_formula.difference_of(timed.favor, causal=False),
        },
        **_table(lines, "identity"),
        setup=f"one layer of 8 heads, width 512, inner width 2,048, M = 256, forward and backward, {threads_used()}, float32; "
        "CPU time of all threads, of interleaved rounds the least",
    )


def fastformer(setting: Setting) -> Measurement:
    """A training step of two layers at the size of the authors' notebook."""
    common: dict[str, Any] = dict(dim=256, depth=2, heads=16, ff_mult=1.0, causal=False)
    lengths = _lengths(setting, 14)

    def build() -> dict[str, nn.Module]:
        return {
            "Fastformer": models.Fastformer(models.FastformerConfig(**common)),
            "exact": models.Transformer(models.TransformerConfig(**common)),
        }

    lines, sides = _training(build, lengths, setting, width=256)
    timed = next(module for module in sides["Fastformer"].modules() if isinstance(module, AdditiveAttention))
    times = {name: dict(points) for name, points in lines.items()}
    last = max(times["exact"])
    return Measurement(
        numbers={
            "slope": slope(lines["Fastformer"]),
            "slope of exact attention": slope(lines["exact"]),
            "exact over Fastformer": times["exact"][last] / times["Fastformer"][last],
            "difference": additive.difference_of(timed, 256),
        },
        **_table(lines, "Fastformer"),
        setup=f"two layers of 16 heads, width and inner width 256, forward and backward, {threads_used()}, float32; "
        "CPU time of all threads, of interleaved rounds the least",
    )


def slope(points: list[tuple[float, float]]) -> float:
    """Of the logarithm of the second against that of the first, by least squares."""
    return statistics.linear_regression([math.log(x) for x, _ in points], [math.log(y) for _, y in points]).slope


def _training(
    build: Callable[[], dict[str, nn.Module]], lengths: list[int], setting: Setting, *, width: int
) -> tuple[Lines, dict[str, nn.Module]]:
    """CPU seconds of a step on one sequence, of interleaved rounds the least; and the models."""
    torch.manual_seed(0)
    sides = build()
    timed = dict(sides)
    lines: Lines = {}
    for length in lengths:
        setting.say(f"{length:,} positions")
        x = torch.randn(1, length, width)
        calls = {name: training_step(model, partial(_mean_square, model, x)) for name, model in timed.items()}
        found = interleave(calls, rounds=setting.scaled(9), least=setting.scaled(3), budget=25.0, cap=15.0, clock=time.process_time)
        for name, seconds in found.seconds.items():
            lines.setdefault(name, []).append((length, min(seconds)))  # other programs only make it longer
        for name in found.dropped:
            timed.pop(name)
    return lines, sides


def _mean_square(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def _lengths(setting: Setting, last: int) -> list[int]:
    """Powers of two from 1,024; only small ones for tests."""
    return [2**power for power in range(10, last + 1)] if setting.effort >= 1 else [64, 128]


def _table(lines: Lines, base: str) -> dict[str, Any]:
    """Rows by length, and a plot."""
    times = {name: dict(points) for name, points in lines.items()}

    def cell(name: str, length: float) -> str:
        return "-" if length not in times[name] else f"{1e3 * times[name][length]:,.1f}"

    rows = [[f"{length:,.0f}", *(cell(name, length) for name in lines)] for length in times[base]]
    plot = Plot(x="length", y="CPU seconds of a step", series=lines, dashed=tuple(name for name in lines if name in ("exact", "identity")))
    return {"columns": ["length", *(f"{name}, ms" for name in lines)], "rows": rows, "plot": plot}


def threads_used() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' * (count != 1)}"
