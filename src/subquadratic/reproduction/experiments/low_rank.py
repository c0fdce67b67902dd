"""Linformer: its equation against our layer, and random projections of random attention, which its first theorem is about.

Axes: B batch, H heads, N length, K head width, R slots.
"""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor

from ...attention.low_rank.layer import LowRankAttention
from ...attention.softmax.op import softmax_attention
from ...benchmark.work import relative_error
from ...layers.linear.op import slot_sums
from ...layers.multi_head import split_heads
from ..claim import Measurement, Plot, Setting, figure
from .favor_formula import computed
from .speed import slope
from .worst import furthest, largest

LENGTH, WIDTH = 512, 64
SLOTS = (16, 32, 64, 128, 512)
EPSILON = 0.5
ENOUGH = math.ceil(5 * math.log(LENGTH) / (EPSILON**2 - EPSILON**3))
COUNTS = tuple(sorted((*SLOTS, ENOUGH)))


def by_equation(layer: LowRankAttention, x: Tensor, key_weights: Tensor, value_weights: Tensor) -> Tensor:
    """softmax(q (E^T k)^T / sqrt(K)) (F^T v) word for word, in float64, with the weights of a layer and E and F (N, R): (B, N, D) -> the
    same. Causal: the sums that a position reads go up to it."""
    q, k, v = (split_heads(x.double() @ part.weight.double().T, width=layer.width) for part in (layer.query, layer.key, layer.value))
    keys, values = (weights.double()[:, :, None] * part[..., None, :] for weights, part in ((key_weights, k), (value_weights, v)))
    sums = [part.cumsum(dim=2) if layer.causal else part.sum(dim=2, keepdim=True) for part in (keys, values)]  # (B, H, N or 1, R, K)
    shares = (torch.einsum("bhnk,bhnrk->bhnr", q, sums[0].expand(-1, -1, x.shape[1], -1, -1)) / layer.width**0.5).softmax(dim=-1)
    mixed = torch.einsum("bhnr,bhnrk->bhnk", shares, sums[1].expand(-1, -1, x.shape[1], -1, -1)).transpose(1, 2).flatten(2)
    bias = 0.0 if layer.output.bias is None else layer.output.bias.double()
    return mixed @ layer.output.weight.double().T + bias


@torch.no_grad()
def equation(setting: Setting) -> Measurement:
    """Our layer, with projections for keys and values, one for both, and one from outside."""
    rows = []
    found: dict[str, list[float]] = {"float64": [], "float32": []}
    for causal in (False, True):
        for share in ("none", "kv", "layer"):
            for length in (7, 64, 600):
                torch.manual_seed(setting.seed + length)
                layer = LowRankAttention(64, heads=4, max_length=600, slots=64, causal=causal, share=share)
                x, outside = torch.randn(1, length, 64), torch.randn(length, 64) / length**0.5
                e, f = (outside, outside) if layer.projection is None else layer.projection.first(length)
                exact = by_equation(layer, x, e, f)
                more = {"key_weights": outside} if layer.projection is None else {}
                single = relative_error(layer(x, **more), exact)
                double = relative_error(layer.double()(x.double(), **{name: part.double() for name, part in more.items()}), exact)
                found["float64"].append(double)
                found["float32"].append(single)
                rows.append(["causal" if causal else "bidirectional", share, str(length), figure(double), figure(single)])
    return Measurement(
        numbers={name: largest(values) for name, values in found.items()},
        columns=["form", "shared", "length", "our layer, float64", "our layer, float32"],
        rows=rows,
        setup=(
            f"one layer of 4 heads, width 64, 64 slots, fresh weights, float32 by {computed()}; norm of the difference from the equation "
            "in float64 over norm"
        ),
    )


@torch.no_grad()
def difference_of(layer: LowRankAttention, key_weights: Tensor) -> float:
    """The same of a layer whose projection comes from outside, for as many positions as E (N, R) has."""
    x = torch.randn(1, len(key_weights), layer.dim, generator=torch.Generator().manual_seed(1))
    return relative_error(layer(x, key_weights=key_weights), by_equation(layer, x, key_weights, key_weights))


@torch.no_grad()
def projections(setting: Setting) -> Measurement:
    """Error of P R^T R w against P w, for attention P of Gaussian queries and keys, and columns w that are Gaussian or of one sign."""
    generator = torch.Generator().manual_seed(setting.seed)
    samples = setting.scaled(30, least=4)
    kinds = ("Gaussian", "of one sign")
    by_norms: dict[int, list[float]] = {k: [] for k in COUNTS}
    by_output: dict[str, dict[int, list[float]]] = {kind: {k: [] for k in COUNTS} for kind in kinds}
    by_theory: dict[str, list[float]] = {"float64": [], "float32": []}
    within: dict[str, list[float]] = {kind: [] for kind in (*kinds, "norms")}
    for sample in range(samples):
        setting.say(f"sample {sample + 1} of {samples}")
        q, k, drawn = torch.randn(3, 1, 1, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
        weights = softmax_attention(q, k, torch.eye(LENGTH, dtype=torch.float64)[None, None])[0, 0]
        for count in COUNTS:
            r = torch.randn(LENGTH, count, generator=generator, dtype=torch.float64) / math.sqrt(count)  # R^T
            for kind, w in zip(kinds, (drawn[0, 0], drawn[0, 0].abs()), strict=True):
                exact = weights @ w
                norms = weights.norm(dim=1, keepdim=True) * w.norm(dim=0)
                variance = (norms.square() + exact.square()) / count  # of a.R^T R w for a row a: Gaussian R
                for name, ratios in by_theory.items():
                    error = projected(*(x.to(getattr(torch, name)) for x in (q, k, w, r))).double() - exact
                    ratios.append(float(error.square().sum() / variance.sum()))
                by_output[kind][count].append(float(error.norm() / exact.norm()))
                if kind == "Gaussian":
                    by_norms[count].append(float(error.norm() / norms.norm()))
                if count == ENOUGH:
                    within[kind].append(float((error.norm(dim=0) < EPSILON * exact.norm(dim=0)).double().mean()))
                    within["norms"].append(float((error.abs() <= EPSILON * norms).double().mean()))
    norms_line = [(float(k), statistics.median(by_norms[k])) for k in COUNTS]
    lines = {f"w {kind}": [(float(k), statistics.median(by_output[kind][k])) for k in COUNTS] for kind in kinds}
    root = [(x, lines["w Gaussian"][0][1] * math.sqrt(COUNTS[0] / x)) for x, _ in norms_line]
    return Measurement(
        numbers={
            "slope": slope(norms_line),
            "over theory": furthest((statistics.fmean(ratios) for ratios in by_theory.values()), 1),
            **{f"within, {kind}": statistics.fmean(values) for kind, values in within.items()},
        },
        columns=["k", "‖P̃w − Pw‖ / (‖P‖ ‖w‖)", *(f"‖P̃w − Pw‖ / ‖Pw‖, w {kind}" for kind in kinds)],
        rows=[
            [str(k), figure(x), *(figure(line[place][1]) for line in lines.values())]
            for place, (k, (_, x)) in enumerate(zip(COUNTS, norms_line, strict=True))
        ],
        plot=Plot(
            x="k", y="‖P̃w − Pw‖ / ‖Pw‖", series={**lines, "proportional to 1 / √k": root}, dashed=("proportional to 1 / √k",)
        ),
        setup=(
            f"n = {LENGTH}, d = {WIDTH}, {samples} samples of {WIDTH} columns w, ε = {EPSILON}, for which the theorem asks for "
            f"k = {ENOUGH}; by the operations of our layers, float32 by {computed()}; ‖P‖ ‖w‖ stands for the norm of the rows' norms "
            "times ‖w‖"
        ),
    )  # fmt: skip


def projected(queries: Tensor, keys: Tensor, w: Tensor, r: Tensor) -> Tensor:
    """P R^T (R w) by our operations: R's rows are what attention mixes, and what slots sum with. (N, K) from w (N, K) and R^T (N, R)."""
    mixed = softmax_attention(queries, keys, r[None, None])
    return mixed[0, 0] @ slot_sums(r, w[None])[0]
