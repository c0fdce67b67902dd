"""Error of FAVOR+ against exact attention: by number of features, size of queries and keys, feature map, projection and estimator.

What layers run is measured: float32, by the C kernels where there are some. What is exact is computed in float64. And every experiment asks
first whether the layers' code is the formula at all (`favor_formula`): ratios of errors say nothing of an estimator that is none.

Axes: N length, K head width, M features, S samples.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...attention.favor import features as favor
from ...attention.favor.formula import read_with_queries, summarise_features
from ...attention.softmax.op import softmax_attention
from ..claim import Measurement, Plot, Setting, figure
from .favor_formula import WIDTH, attend, computed, differences, expected_error
from .kernels import trigonometric
from .worst import largest

LENGTH, SAMPLES = 4096, 15  # figure 4
SHORT, MANY = 1024, 60  # the same work: more projections, which are what an error varies with
COUNTS = (16, 32, 64, 128, 256)
SIZES = (0.25, 0.5, 0.75, 1.0)
Series = dict[str, list[tuple[float, float]]]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def trigonometric_attention(queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor) -> Tensor:
    """Linear attention over the paper's trigonometric features, in float64."""

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
    "positive, orthogonal": (attend, orthogonal),
    "positive, independent": (attend, independent),
    "trigonometric, orthogonal": (trigonometric_attention, orthogonal),
    "trigonometric, independent": (trigonometric_attention, independent),
}


def positive_large(setting: Setting) -> Measurement:
    """Queries and keys of unit variance."""
    return _positive_against_trigonometric(setting, 1.0)


def positive_middle(setting: Setting) -> Measurement:
    """Queries and keys of standard deviation 0.75."""
    return _positive_against_trigonometric(setting, 0.75)


def positive_small(setting: Setting) -> Measurement:
    """Queries and keys of standard deviation 0.5."""
    return _positive_against_trigonometric(setting, 0.5)


@torch.no_grad()
def orthogonality(setting: Setting) -> Measurement:
    """Orthogonal beside independent projections, for positive features, and the error that theory gives the latter."""
    numbers: dict[str, float] = {}
    rows = []
    series: Series = {}
    names = ("positive, independent", "positive, orthogonal")
    for size in (0.25, 0.5):
        setting.say(f"std {size:g}")
        samples = [_sample(setting, sample, size, SHORT) for sample in range(setting.scaled(MANY, least=2))]
        found = _errors(samples, names, COUNTS)
        means = {name: [statistics.fmean(found[name][m]) for m in COUNTS] for name in names}
        expected = statistics.fmean(expected_error(q[0, 0], k[0, 0], COUNTS[-1]) for q, k, *_ in samples)
        ratios = [one / other for one, other in zip(*means.values(), strict=True)]
        numbers |= {
            f"independent over orthogonal at {size}": statistics.geometric_mean(ratios),
            f"independent over theory at {size}": means[names[0]][-1] / expected,
        }
        rows += [[f"{size:g}", name.partition(", ")[2], *map(figure, means[name])] for name in names]
        rows.append([f"{size:g}", "independent, by theory", *(figure(expected * COUNTS[-1] / m) for m in COUNTS)])
        series |= {f"{name.partition(', ')[2]}, std {size}": list(zip(map(float, COUNTS), means[name], strict=True)) for name in names}
    return Measurement(
        numbers=numbers | differences(setting, 0.5),
        columns=["std of q, k", "features", *(f"M = {m}" for m in COUNTS)],
        rows=rows,
        plot=Plot(x="features M", y="relative squared error", series=series, dashed=tuple(s for s in series if s.startswith("ind"))),
        setup=(
            f"{_setup(setting, SHORT, MANY)}; means of mean squared error over mean square of the exact output; theory is to first "
            "order in 1 / M"
        ),
    )


def by_size(setting: Setting) -> Measurement:
    """Relative squared error of positive orthogonal features by the size of queries and keys."""
    numbers: dict[str, float] = {}
    rows = []
    series: Series = {}
    for size in SIZES:
        setting.say(f"std {size:g}")
        found = _errors(_samples(setting, size), ("positive, orthogonal",), COUNTS)["positive, orthogonal"]
        errors = [statistics.median(found[m]) for m in COUNTS]
        numbers |= {f"error at {size}": errors[-1], f"gain at {size}": errors[0] / errors[-1]}
        rows.append([f"{size:g}", *map(figure, errors)])
        series[f"std {size}"] = list(zip(map(float, COUNTS), errors, strict=True))
    return Measurement(
        numbers=numbers | differences(setting, 1.0),
        columns=["std of q, k", *(f"M = {m}" for m in COUNTS)],
        rows=rows,
        plot=Plot(x="features M", y="relative squared error", series=series),
        setup=f"{_setup(setting)}; medians of mean squared error over mean square of the exact output; 1 is what answering zero gives",
    )


@torch.no_grad()
def estimators(setting: Setting) -> Measurement:
    """The options `estimator="optimal"` and `"dense"` of `FavorAttention`, beside positive features."""
    ways = ("positive", "optimal", "dense")
    numbers: dict[str, float] = {}
    rows = []
    series: Series = {name: [] for name in ways}
    for size in SIZES:
        setting.say(f"std {size:g}")
        errors: dict[str, list[float]] = {name: [] for name in ways}
        for q, k, v, generator in _samples(setting, size):
            exact, projection = softmax_attention(q, k, v), orthogonal(256, generator)
            for name in ways:
                errors[name].append(_relative(attend(q, k, v, projection, estimator=name), exact))
        middle = {name: statistics.median(found) for name, found in errors.items()}
        numbers |= {f"{name} at {size}": middle["positive"] / middle[name] for name in ("optimal", "dense")}
        rows.append([f"{size:g}", *(figure(middle[name]) for name in ways)])
        for name in ways:
            series[name].append((size, middle[name]))
    both = [differences(setting, 0.5, estimator=name) for name in ("positive", "optimal")]
    return Measurement(
        numbers=numbers | {name: largest(found[name] for found in both) for name in ("float64", "float32")},
        columns=["std of q, k", *ways],
        rows=rows,
        plot=Plot(x="std of the entries of q and k", y="relative squared error", series=series, x_log=False),
        setup=f"{_setup(setting)}; M = 256; medians",
    )


def _positive_against_trigonometric(setting: Setting, size: float) -> Measurement:
    found = _errors(_samples(setting, size), tuple(WAYS), COUNTS)
    middle = {name: {m: statistics.median(found[name][m]) for m in COUNTS} for name in WAYS}
    ratios = [middle["trigonometric, orthogonal"][m] / middle["positive, orthogonal"][m] for m in COUNTS]
    rows = [[name, *(figure(middle[name][m]) for m in COUNTS)] for name in WAYS]
    return Measurement(
        numbers={"trigonometric over positive": -largest(-ratio for ratio in ratios), **differences(setting, size)},
        columns=["features", *(f"M = {m}" for m in COUNTS)],
        rows=[*rows, ["trigonometric over positive, orthogonal", *map(figure, ratios)]],
        plot=Plot(
            x="features M", y="relative squared error",
            series={name: [(float(m), middle[name][m]) for m in COUNTS] for name in WAYS},
            dashed=tuple(name for name in WAYS if name.startswith("trig")),
        ),
        setup=f"{_setup(setting)}; std of q and k {size:g}; medians of mean squared error over mean square of the exact output",
    )  # fmt: skip


Sample = tuple[Tensor, Tensor, Tensor, torch.Generator]


@torch.no_grad()
def _errors(samples: Sequence[Sample], ways: Sequence[str], counts: Sequence[int]) -> dict[str, dict[int, list[float]]]:
    """Relative squared errors, a number per sample."""
    found: dict[str, dict[int, list[float]]] = {name: {m: [] for m in counts} for name in ways}
    for q, k, v, generator in samples:
        exact = softmax_attention(q, k, v)
        for m in counts:
            for name in ways:
                attend_, draw = WAYS[name]
                found[name][m].append(_relative(attend_(q, k, v, draw(m, generator)), exact))
    return found


def _samples(setting: Setting, size: float) -> list[Sample]:
    """As many as figure 4 has, of its length."""
    return [_sample(setting, sample, size, LENGTH) for sample in range(setting.scaled(SAMPLES, least=2))]


def _sample(setting: Setting, sample: int, size: float, length: int) -> Sample:
    """Gaussian queries, keys and values (1, 1, N, K), float64, and what projections are drawn with."""
    generator = torch.Generator().manual_seed(10_000 * setting.seed + sample)
    q, k, v = torch.randn(3, 1, 1, _length(setting, length), WIDTH, generator=generator, dtype=torch.float64)
    return q * size, k * size, v, generator


def _length(setting: Setting, length: int) -> int:
    return length if setting.effort >= 1 else 256


def _setup(setting: Setting, length: int = LENGTH, samples: int = SAMPLES) -> str:
    return (
        f"L = {_length(setting, length):,}, d = {WIDTH}, {setting.scaled(samples, least=2)} samples of Gaussian q, k and v; positive "
        f"features as layers compute them, in float32 by {computed()}; all else in float64"
    )


def _relative(found: Tensor, exact: Tensor) -> float:
    """Mean squared error over mean square."""
    return float((found - exact).square().mean() / exact.square().mean())
