"""Error of FAVOR+ against exact attention: by number of features, size of queries and keys, feature map, projection and estimator.

Axes: N length, K head width, M features, S samples.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...attention.favor import features as favor
from ...attention.favor.formula import read_with_queries, summarise_features
from ...attention.favor.sharp import favor_attention
from ...attention.softmax.op import softmax_attention
from ..claim import Measurement, Plot, Setting, figure
from .kernels import trigonometric

LENGTH, WIDTH, SAMPLES = 4096, 16, 15  # figure 4
COUNTS = (16, 32, 64, 128, 256)
Series = dict[str, list[tuple[float, float]]]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def positive(queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor) -> Tensor:
    """FAVOR+ as our layers compute it."""
    return favor_attention(queries, keys, values, projection)


def trigonometric_attention(queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor) -> Tensor:
    """Linear attention over the paper's trigonometric features."""

    def features(x: Tensor) -> Tensor:
        exponents, projected = favor.softmax_exponents(x, projection)
        radius = (projected - exponents)[..., :1]  # |x|^2 / 2, the same for all features
        return (radius - radius.amax()).exp() * torch.cat(trigonometric(projected), dim=-1)

    return read_with_queries(features(queries), summarise_features(features(keys), values, exponents=False))


def independent(features: int, generator: torch.Generator) -> Tensor:
    return torch.randn(features, WIDTH, generator=generator, dtype=torch.float64)


def orthogonal(features: int, generator: torch.Generator) -> Tensor:
    return favor.orthogonal_gaussian(features, WIDTH, generator=generator, dtype=torch.float64)


WAYS: dict[str, tuple[Attend, Callable[[int, torch.Generator], Tensor]]] = {
    "positive, orthogonal": (positive, orthogonal),
    "positive, independent": (positive, independent),
    "trigonometric, orthogonal": (trigonometric_attention, orthogonal),
    "trigonometric, independent": (trigonometric_attention, independent),
}


def positive_large(setting: Setting) -> Measurement:
    """Queries and keys of unit variance."""
    return _positive_against_trigonometric(setting, 1.0)


def positive_small(setting: Setting) -> Measurement:
    """Queries and keys of a quarter of it."""
    return _positive_against_trigonometric(setting, 0.5)


def orthogonality(setting: Setting) -> Measurement:
    """Orthogonal beside independent projections, for positive features."""
    numbers: dict[str, float] = {}
    rows = []
    series: Series = {}
    for size in (0.25, 0.5):
        found = _errors(setting, size, ("positive, orthogonal", "positive, independent"))
        ratios = [_mean(found["positive, independent"][m]) / _mean(found["positive, orthogonal"][m]) for m in COUNTS]
        numbers[f"independent over orthogonal at {size}"] = statistics.geometric_mean(ratios)
        rows.append([f"{size:g}", *(f"{ratio:.2f}" for ratio in ratios)])
        series |= {f"{name.partition(', ')[2]}, std {size}": [(m, _mean(found[name][m])) for m in COUNTS] for name in found}
    return Measurement(
        numbers=numbers,
        columns=["std of q, k", *(f"M = {m}" for m in COUNTS)],
        rows=rows,
        plot=Plot(x="features M", y="relative squared error", series=series, dashed=tuple(s for s in series if s.startswith("ind"))),
        setup=f"{_setup(setting)}; the table has the error of independent features over that of orthogonal ones",
    )


def by_size(setting: Setting) -> Measurement:
    """Relative squared error of positive orthogonal features by the size of queries and keys."""
    numbers: dict[str, float] = {}
    rows = []
    series: Series = {}
    for size in (0.25, 0.5, 0.75, 1.0):
        found = _errors(setting, size, ("positive, orthogonal",))["positive, orthogonal"]
        errors = [statistics.median(found[m]) for m in COUNTS]
        numbers |= {f"error at {size}": errors[-1], f"gain at {size}": errors[0] / errors[-1]}
        rows.append([f"{size:g}", *map(figure, errors)])
        series[f"std {size}"] = list(zip(map(float, COUNTS), errors, strict=True))
    return Measurement(
        numbers=numbers,
        columns=["std of q, k", *(f"M = {m}" for m in COUNTS)],
        rows=rows,
        plot=Plot(x="features M", y="relative squared error", series=series),
        setup=f"{_setup(setting)}; medians of mean squared error over mean square of the exact output; 1 is what answering zero gives",
    )


def estimators(setting: Setting) -> Measurement:
    """The options `estimator="optimal"` and `"dense"` of `FavorAttention`, beside positive features."""
    ways: dict[str, dict[str, Any]] = {"positive": {}, "optimal": {"estimator": "optimal"}, "dense": {"estimator": "dense"}}
    numbers: dict[str, float] = {}
    rows = []
    series: Series = {name: [] for name in ways}
    for size in (0.25, 0.5, 0.75, 1.0):
        errors: dict[str, list[float]] = {name: [] for name in ways}
        for sample in range(setting.scaled(SAMPLES, least=2)):
            q, k, v, generator = _sample(setting, sample, size)
            exact, projection = softmax_attention(q, k, v), orthogonal(256, generator)
            for name, options in ways.items():
                errors[name].append(_relative(favor_attention(q, k, v, projection, **options), exact))
        middle = {name: statistics.median(found) for name, found in errors.items()}
        numbers |= {f"{name} at {size}": middle["positive"] / middle[name] for name in ("optimal", "dense")}
        rows.append([f"{size:g}", *(figure(middle[name]) for name in ways)])
        for name in ways:
            series[name].append((size, middle[name]))
    return Measurement(
        numbers=numbers,
        columns=["std of q, k", *ways],
        rows=rows,
        plot=Plot(x="std of the entries of q and k", y="relative squared error", series=series, x_log=False),
        setup=f"{_setup(setting)}; M = 256; medians",
    )


def _positive_against_trigonometric(setting: Setting, size: float) -> Measurement:
    counts = [m for m in COUNTS if m <= 128]
    found = _errors(setting, size, tuple(WAYS), counts)
    middle = {name: {m: statistics.median(found[name][m]) for m in counts} for name in WAYS}
    ratios = [middle["trigonometric, orthogonal"][m] / middle["positive, orthogonal"][m] for m in counts]
    return Measurement(
        numbers={"trigonometric over positive": min(ratios)},
        columns=["features", *(f"M = {m}" for m in counts)],
        rows=[[name, *(figure(middle[name][m]) for m in counts)] for name in WAYS],
        plot=Plot(
            x="features M", y="relative squared error",
            series={name: [(float(m), middle[name][m]) for m in counts] for name in WAYS},
            dashed=tuple(name for name in WAYS if name.startswith("trig")),
        ),
        setup=f"{_setup(setting)}; std of q and k {size:g}; medians of mean squared error over mean square of the exact output",
    )  # fmt: skip


def _errors(setting: Setting, size: float, ways: tuple[str, ...], counts: Any = COUNTS) -> dict[str, dict[int, list[float]]]:
    """Relative squared errors, a number per sample."""
    found: dict[str, dict[int, list[float]]] = {name: {m: [] for m in counts} for name in ways}
    for sample in range(setting.scaled(SAMPLES, least=2)):
        q, k, v, generator = _sample(setting, sample, size)
        exact = softmax_attention(q, k, v)
        for m in counts:
            for name in ways:
                attend, draw = WAYS[name]
                found[name][m].append(_relative(attend(q, k, v, draw(m, generator)), exact))
    return found


def _sample(setting: Setting, sample: int, size: float) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """Gaussian queries, keys and values (1, 1, N, K), float64, and what projections are drawn with."""
    generator = torch.Generator().manual_seed(10_000 * setting.seed + sample)
    q, k, v = torch.randn(3, 1, 1, _length(setting), WIDTH, generator=generator, dtype=torch.float64)
    return q * size, k * size, v, generator


def _length(setting: Setting) -> int:
    return LENGTH if setting.effort >= 1 else 256


def _setup(setting: Setting) -> str:
    return f"L = {_length(setting):,}, d = {WIDTH}, {setting.scaled(SAMPLES, least=2)} samples of Gaussian q, k and v, in float64"


def _relative(found: Tensor, exact: Tensor) -> float:
    """Mean squared error over mean square."""
    return float((found - exact).square().mean() / exact.square().mean())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
