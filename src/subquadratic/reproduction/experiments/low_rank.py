"""Whether attention is of low rank: random projections of random attention, and spectra of attention in a trained model.

Axes: H heads, N length, K head width, R slots.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor

from ... import models
from ...attention.softmax.layer import SoftmaxAttention
from ...attention.softmax.op import softmax_attention
from ...heads.language_model import LanguageModel
from ...layers.linear.op import slot_sums
from ..claim import Measurement, Plot, Setting, figure
from .speed import slope
from .stdlib import VOCABULARY, bytes_of_stdlib, windows
from .training import Plan, train

LENGTH, WIDTH = 512, 64
SLOTS = (16, 32, 64, 128, 256)


def projections(setting: Setting) -> Measurement:
    """Error of P R^T R w against P w, for attention P of Gaussian queries and keys and a Gaussian w."""
    generator = torch.Generator().manual_seed(setting.seed)
    samples = setting.scaled(100, least=10)
    epsilon = 0.5
    enough = math.ceil(5 * math.log(LENGTH) / (epsilon**2 - epsilon**3))
    counts = (*SLOTS, enough)
    by_norms: dict[int, list[float]] = {k: [] for k in counts}
    by_output: dict[int, list[float]] = {k: [] for k in counts}
    within = []
    for _ in range(samples):
        q, k = torch.randn(2, 1, 1, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
        w = torch.randn(1, LENGTH, 1, generator=generator, dtype=torch.float64)
        everything = torch.eye(LENGTH, dtype=torch.float64)[None, None]
        weights = softmax_attention(q, k, everything)[0, 0]
        exact = weights @ w[0]
        rows = weights.norm(dim=1, keepdim=True) * w.norm()
        for count in counts:
            error = projected(q, k, w, count, generator) - exact
            by_norms[count].append(float(error.norm() / rows.norm()))
            by_output[count].append(float(error.norm() / exact.norm()))
            if count == enough:
                within.append(float((error.abs() <= epsilon * rows).double().mean()))
    middle = {count: statistics.median(by_norms[count]) for count in counts}
    line = [(float(count), middle[count]) for count in sorted(counts)]
    root = [(x, line[0][1] * math.sqrt(line[0][0] / x)) for x, _ in line]
    return Measurement(
        numbers={"slope": slope(line), "within": statistics.fmean(within)},
        columns=["k", "‖P̃w − Pw‖ / (‖P‖ ‖w‖)", "‖P̃w − Pw‖ / ‖Pw‖"],
        rows=[[str(count), figure(middle[count]), figure(statistics.median(by_output[count]))] for count in sorted(counts)],
        plot=Plot(x="k", y="error", series={"measured": line, "proportional to 1 / √k": root}, dashed=("proportional to 1 / √k",)),
        setup=(
            f"n = {LENGTH}, d = {WIDTH}, {samples} samples, ε = {epsilon}, for which the theorem asks for k = {enough}; "
            "‖P‖ ‖w‖ stands for the norm of the rows' norms times ‖w‖"
        ),
    )


def projected(queries: Tensor, keys: Tensor, w: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """P R^T (R w) by our operations: R's rows are what attention mixes, and what slots sum with. (N, 1)."""
    weights = torch.randn(LENGTH, count, generator=generator, dtype=torch.float64) / math.sqrt(count)  # R^T
    mixed = softmax_attention(queries, keys, weights[None, None])
    return mixed[0, 0] @ slot_sums(weights, w)[0]


def spectrum(setting: Setting) -> Measurement:
    """Share of the singular values' sum that the largest have, in the layers of a bidirectional Transformer, before and after training."""
    config = models.TransformerConfig(dim=128, depth=3, heads=4, causal=False, positions="learned", token_shift=True)
    model = LanguageModel(config, vocab_size=VOCABULARY, max_length=LENGTH)
    data = bytes_of_stdlib(setting)
    tokens = windows(data.validation, LENGTH, 2, seed=setting.seed)
    before = _cumulative(model, tokens)
    plan = Plan(steps=setting.scaled(500, least=2), batch=8, rate=1e-3)
    done = train(model, lambda step: {"tokens": windows(data.train, LENGTH, plan.batch, seed=1 + step)}, plan, setting)
    after = _cumulative(model, tokens)
    marks = [2**power for power in range(10)]
    shares = {name: [float(found[..., mark - 1].mean()) for mark in marks] for name, found in (("before", before), ("after", after))}
    quarter = after[..., LENGTH // 4 - 1]
    return Measurement(
        numbers={"share": float(quarter.mean()), "least share": float(quarter.min()), "loss": done.last},
        columns=["largest of 512", "before training", "after training"],
        rows=[[str(mark), *(f"{shares[name][i]:.3f}" for name in shares)] for i, mark in enumerate(marks)],
        plot=Plot(
            x="singular values, largest first", y="share of their sum", y_log=False, dashed=("before training",),
            series={f"{name} training": list(zip(map(float, marks), shares[name], strict=True)) for name in shares},
        ),
        setup=(
            f"3 layers of 4 heads, width 128, half of the channels shifted by a byte, "
            f"{plan.steps:,} steps of {plan.batch} x {LENGTH} bytes of the standard library "
            "with 15% hidden "
            f"(training loss {done.last:.2f} nats at the end); mean over layers, heads and two windows of validation text"
        ),
    )  # fmt: skip


@torch.no_grad()
def _cumulative(model: LanguageModel, tokens: Tensor) -> Tensor:
    """(layers, B, H, N): the running share of the singular values of each head's attention matrix."""
    found: list[Tensor] = []

    def look(layer: Any, given: Any, arguments: Any, output: Any) -> None:
        if not arguments.get("return_attention"):
            _, weights = layer(*given, **{**arguments, "return_attention": True})
            values = torch.linalg.svdvals(weights.double())
            found.append((values / values.sum(dim=-1, keepdim=True)).cumsum(dim=-1))

    layers = [module for module in model.modules() if isinstance(module, SoftmaxAttention)]
    hooks = [layer.register_forward_hook(look, with_kwargs=True) for layer in layers]
    model.eval()
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
        model.train()
    return torch.stack(found)
