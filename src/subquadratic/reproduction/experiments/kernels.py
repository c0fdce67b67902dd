"""Random features of the softmax kernel: mean squared errors by Monte Carlo, beside the closed forms of the Performer paper.

Axes: K head width, M features, T draws. Vectors x and y are given as queries and keys are, so that the kernel is exp(x . y / sqrt(K)); the
paper's x and y are those times K^(-1/4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...attention.favor import features as favor
from ...attention.favor.op import summarise_favor
from ..claim import Measurement, Plot, Setting
from .favor_formula import computed
from .worst import furthest, largest

WIDTH = 16
KINDS = ("positive", "trigonometric", "hyperbolic")
CODE = {"positive, float64": torch.float64, "positive, float32": torch.float32}  # of the layers
NORMS = (0.1, 0.25, 0.5, 1.0)  # squared, of x + y as the features see them
BLOCK = 1 << 18  # draws at a time


def estimates(kind: str, x: Tensor, y: Tensor, projection: Tensor) -> Tensor:
    """What each feature alone estimates of exp(x . y), from the exponents of `attention.favor`: (K,) twice and (T, K) -> (T,).

    The three feature maps of the paper's section 2.3: exp(w.x - |x|^2/2); sin and cos of w.x, times exp(|x|^2/2); and the mean of the
    positive one at w and at -w.
    """
    (log_x, of_x), (log_y, of_y) = (_exponents(part, projection) for part in (x, y))
    if kind == "positive":
        return (log_x + log_y).exp()
    if kind == "hyperbolic":
        return ((log_x + log_y).exp() + (log_x + log_y - 2 * (of_x + of_y)).exp()) / 2
    radius = (of_x - log_x + of_y - log_y).exp()  # w.x - (w.x - |x|^2 / 2)
    (sin_x, cos_x), (sin_y, cos_y) = trigonometric(of_x), trigonometric(of_y)
    return radius * (sin_x * sin_y + cos_x * cos_y)


def trigonometric(projected: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's sin(w.x) and cos(w.x). (Often copied with a factor 2 pi, which estimates another kernel.)"""
    return projected.sin(), projected.cos()


def by_layers(x: Tensor, y: Tensor, projection: Tensor) -> Tensor:
    """The same of the positive features that layers make: of x and y as keys, in the dtype of the projection."""
    return (_logarithms(x, projection) + _logarithms(y, projection)).double().exp()


def lemma2(setting: Setting) -> Measurement:
    """Measured mean squared error of one feature over that of the lemma, for pairs x, y of several norms of x + y."""
    draws = setting.scaled(1 << 22, least=BLOCK)
    names = (*KINDS, *CODE)
    pairs = [_pair(norm, setting.seed) for norm in NORMS]
    exact = [math.exp(float(x @ y)) for x, y in pairs]
    off: dict[str, list[float]] = {}
    for name, squares in _mean_squares(pairs, exact, draws, setting).items():
        theory = [
            closed_form(name.partition(",")[0], wanted, norm, float((x - y).square().sum()))
            for wanted, norm, (x, y) in zip(exact, NORMS, pairs, strict=True)
        ]
        off[name] = [found / formula - 1 for found, formula in zip(squares, theory, strict=True)]
    rows = [[f"{norm:g}", *(f"{1 + off[name][place]:.4f}" for name in names)] for place, norm in enumerate(NORMS)]
    series = {name: [(norm, 1 + ratio) for norm, ratio in zip(NORMS, off[name], strict=True)] for name in names}
    return Measurement(
        numbers={name: 100 * furthest(off[name], 0) for name in names},
        columns=["‖x + y‖²", *names],
        rows=rows,
        plot=Plot(
            x="‖x + y‖²", y="mean squared error, measured over formula", y_log=False, dashed=("Lemma 2",),
            series={**series, "Lemma 2": [(norm, 1.0) for norm in NORMS]},
        ),
        setup=(
            f"d = {WIDTH}, one pair x, y for each norm, {draws:,} Gaussian features each; the first three from the formulas in float64, "
            f"the last two from the layers' code, in float32 by {computed()}; the table has measured over formula"
        ),
    )  # fmt: skip


def closed_form(kind: str, exact: float, norm: float, distance: float) -> float:
    """Lemma 2's mean squared error for m = 1: `exact` is exp(x . y), `norm` |x + y|^2, `distance` |x - y|^2."""
    if kind == "trigonometric":
        return math.exp(norm) / exact**2 * (1 - math.exp(-distance)) ** 2 / 2
    positive = math.exp(norm) * exact**2 * (1 - math.exp(-norm))
    return positive if kind == "positive" else positive * (1 - math.exp(-norm)) / 2


def exact_orthogonal(exact: float, norm: float) -> float:
    """The mean squared error of m = d orthogonal features: what the theorem bounds.

    w + w' of two rows has a length that is chi with 2 d degrees of freedom, in any direction, so that E[exp((w + w').z)] is Kummer's
    1F1(d; d / 2; |z|^2 / 2). `exact` is exp(x . y), `norm` |x + y|^2.
    """
    pair, term = 0.0, 1.0
    for step in range(200):
        pair += term
        term *= (WIDTH + step) / (WIDTH / 2 + step) * norm / 2 / (step + 1)
    together = exact**2 * (pair * math.exp(-norm) - 1)  # the covariance of two features, below zero
    return closed_form("positive", exact, norm, 0.0) / WIDTH + (WIDTH - 1) / WIDTH * together


def theorem2(setting: Setting) -> Measurement:
    """Mean squared error of M = d orthogonal features over that of independent ones, beside the bound of the theorem."""
    draws = setting.scaled(100_000, least=2_000)
    generator = torch.Generator().manual_seed(setting.seed)
    setting.say(f"{draws:,} orthogonal projections")
    projection = favor.orthogonal_gaussian(draws * WIDTH, WIDTH, generator=generator, dtype=torch.float64)  # blocks are independent
    numbers: dict[str, float] = {}
    rows = []
    for norm in (0.33, 1.46):
        x, y = _pair(norm, setting.seed)
        exact = math.exp(float(x @ y))
        independent = closed_form("positive", exact, norm, 0.0) / WIDTH
        gap = 2 * (WIDTH - 1) / (WIDTH * (WIDTH + 2)) * (exact * (1 - math.exp(-norm / 2))) ** 2
        bound, theory = 1 - gap / independent, exact_orthogonal(exact, norm) / independent
        ratios = []
        for dtype in CODE.values():
            means = by_layers(x, y, projection.to(dtype)).view(draws, WIDTH).mean(dim=1)
            ratios.append(float((means - exact).square().mean()) / independent)
        worst = largest(ratios)
        off = furthest((ratio / theory for ratio in ratios), 1)
        numbers |= {f"ratio at {norm}": worst, f"ratio over bound at {norm}": worst / bound, f"ratio over theory at {norm}": off}
        rows.append([f"{norm:g}", *(f"{ratio:.3f}" for ratio in (*ratios, theory, bound))])
    return Measurement(
        numbers=numbers,
        columns=["‖x + y‖²", "orthogonal / independent, float64", "float32", "exactly", "the theorem allows"],
        rows=rows,
        setup=(
            f"m = d = {WIDTH}, {draws:,} projections, features as layers make them, in float32 by {computed()}; the error of independent "
            "features is that of Lemma 2"
        ),
    )


def _pair(norm: float, seed: int) -> tuple[Tensor, Tensor]:
    """x and y (K,), float64, of random directions, with this |x + y|^2: as the features see them."""
    x, y = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1000 + seed), dtype=torch.float64)
    scale = math.sqrt(norm / float((x + y).square().sum()))
    return x * scale, y * scale


def _exponents(x: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """(K,) as the features see it -> w.x - |x|^2 / 2 and w.x, (T,) each."""
    found = favor.softmax_exponents((x * WIDTH**0.25)[None, None, None], projection)
    return found[0].flatten(), found[1].flatten()


def _logarithms(x: Tensor, projection: Tensor) -> Tensor:
    """Of the positive features (T,) of x (K,), from what attention keeps of it as a single key."""
    key = (x * WIDTH**0.25).to(projection.dtype)[None, None, None]
    summary = summarise_favor(key, torch.ones_like(key), projection)
    return summary.maximum.flatten() + summary.total[..., 0].flatten().log()


def _mean_squares(pairs: list[tuple[Tensor, Tensor]], exact: list[float], draws: int, setting: Setting) -> dict[str, list[float]]:
    """Of each kind's single feature, and of the layers' own, over independent Gaussian draws: for each pair of vectors."""
    generator = torch.Generator().manual_seed(setting.seed)
    sums = {name: [0.0] * len(pairs) for name in (*KINDS, *CODE)}
    for first in range(0, draws, BLOCK):
        setting.say(f"{first:,} of {draws:,} features")
        projection = torch.randn(min(BLOCK, draws - first), WIDTH, generator=generator, dtype=torch.float64)
        given = {name: projection.to(dtype) for name, dtype in CODE.items()}
        for place, ((x, y), wanted) in enumerate(zip(pairs, exact, strict=True)):
            found = {kind: estimates(kind, x, y, projection) for kind in KINDS}
            found |= {name: by_layers(x, y, part) for name, part in given.items()}
            for name, values in found.items():
                sums[name][place] += float((values - wanted).square().sum())
    return {name: [total / draws for total in totals] for name, totals in sums.items()}
