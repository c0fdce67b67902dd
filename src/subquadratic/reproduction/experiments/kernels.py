"""Random features of the softmax kernel: mean squared errors by Monte Carlo, beside the closed forms of the Performer paper.

Axes: K head width, M features, T draws. Vectors x and y are given as queries and keys are, so that the kernel is exp(x . y / sqrt(K)); the
paper's x and y are those times K^(-1/4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...attention.favor import features as favor
from ..claim import Measurement, Plot, Setting

WIDTH = 16
KINDS = ("positive", "trigonometric", "hyperbolic")
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


def lemma2(setting: Setting) -> Measurement:
    """Measured mean squared error of one feature over that of the lemma, for pairs x, y of several norms of x + y."""
    draws = setting.scaled(1 << 22, least=BLOCK)
    numbers: dict[str, float] = {}
    rows: list[list[str]] = []
    series: dict[str, list[tuple[float, float]]] = {f"{kind}, {what}": [] for what in ("measured", "Lemma 2") for kind in KINDS}
    for norm in NORMS:
        x, y = _pair(norm, setting.seed)
        exact, distance = math.exp(float(x @ y)), float((x - y).square().sum())
        found = _mean_squares(x, y, exact, draws, setting.seed)
        row = [f"{norm:g}"]
        for kind in KINDS:
            theory = closed_form(kind, exact, norm, distance)
            ratio = found[kind] / theory
            worst = numbers.get(kind, 1.0)
            numbers[kind] = ratio if abs(math.log(ratio)) >= abs(math.log(worst)) else worst
            series[f"{kind}, measured"].append((norm, found[kind]))
            series[f"{kind}, Lemma 2"].append((norm, theory))
            row.append(f"{ratio:.4f}")
        rows.append(row)
    return Measurement(
        numbers=numbers,
        columns=["‖x + y‖²", *(f"{kind}: measured / formula" for kind in KINDS)],
        rows=rows,
        plot=Plot(
            x="‖x + y‖²", y="mean squared error of one feature", series=series,
            dashed=tuple(name for name in series if name.endswith("2")),
        ),
        setup=f"d = {WIDTH}, one pair x, y for each norm, {draws:,} Gaussian features each, in float64",
    )  # fmt: skip


def closed_form(kind: str, exact: float, norm: float, distance: float) -> float:
    """Lemma 2's mean squared error for m = 1: `exact` is exp(x . y), `norm` |x + y|^2, `distance` |x - y|^2."""
    if kind == "trigonometric":
        return math.exp(norm) / exact**2 * (1 - math.exp(-distance)) ** 2 / 2
    positive = math.exp(norm) * exact**2 * (1 - math.exp(-norm))
    return positive if kind == "positive" else positive * (1 - math.exp(-norm)) / 2


def theorem2(setting: Setting) -> Measurement:
    """Mean squared error of M = d orthogonal features over that of independent ones, beside the bound of the theorem."""
    draws = setting.scaled(100_000, least=2_000)
    generator = torch.Generator().manual_seed(setting.seed)
    projection = favor.orthogonal_gaussian(draws * WIDTH, WIDTH, generator=generator, dtype=torch.float64)  # blocks are independent
    numbers: dict[str, float] = {}
    rows = []
    for norm in (0.33, 1.46):
        x, y = _pair(norm, setting.seed)
        exact = math.exp(float(x @ y))
        means = estimates("positive", x, y, projection).view(draws, WIDTH).mean(dim=1)
        orthogonal = float((means - exact).square().mean())
        independent = closed_form("positive", exact, norm, 0.0) / WIDTH
        gap = 2 * (WIDTH - 1) / (WIDTH * (WIDTH + 2)) * (exact * (1 - math.exp(-norm / 2))) ** 2
        ratio, bound = orthogonal / independent, 1 - gap / independent
        numbers |= {f"ratio at {norm}": ratio, f"ratio over bound at {norm}": ratio / bound}
        rows.append([f"{norm:g}", f"{ratio:.3f}", f"{bound:.3f}"])
    return Measurement(
        numbers=numbers,
        columns=["‖x + y‖²", "orthogonal / independent", "the theorem allows"],
        rows=rows,
        setup=f"m = d = {WIDTH}, {draws:,} projections, in float64; the error of independent features is that of Lemma 2",
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


def _mean_squares(x: Tensor, y: Tensor, exact: float, draws: int, seed: int) -> dict[str, float]:
    """Of each kind's single feature, over independent Gaussian draws."""
    generator, sums = torch.Generator().manual_seed(seed), dict.fromkeys(KINDS, 0.0)
    for first in range(0, draws, BLOCK):
        projection = torch.randn(min(BLOCK, draws - first), WIDTH, generator=generator, dtype=torch.float64)
        for kind in KINDS:
            sums[kind] += float((estimates(kind, x, y, projection) - exact).square().sum())
    return {kind: total / draws for kind, total in sums.items()}
