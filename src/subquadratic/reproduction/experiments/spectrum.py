"""Whether the attention of a trained model is of low rank, beside what would be of low rank, or is not, whatever is learned.

Axes: B batch, H heads, N length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import models
from ...attention.softmax.layer import SoftmaxAttention
from ...attention.softmax.op import softmax_attention
from ...heads.language_model import LanguageModel
from ..claim import Measurement, Plot, Setting
from .stdlib import VOCABULARY, bytes_of_stdlib, windows
from .training import Plan, train

LENGTH = 512


def spectrum(setting: Setting) -> Measurement:
    """Share of the singular values' sum that the largest have, in the layers of a bidirectional Transformer.

    Before training attention is nearly uniform, of rank one, and after it what is flat still is. So the same weights are looked at with
    each row shuffled for itself, which is as flat and has no structure; and attention of independent Gaussian queries and keys of as many
    channels as positions, which is of full rank.
    """
    config = models.TransformerConfig(dim=128, depth=3, heads=4, causal=False, positions="learned", token_shift=True)
    model = LanguageModel(config, vocab_size=VOCABULARY, max_length=LENGTH)
    data = bytes_of_stdlib(setting)
    tokens = windows(data.validation, LENGTH, 2, seed=setting.seed)
    before = _attention(model, tokens)
    plan = Plan(steps=setting.scaled(500, least=2), batch=8, rate=1e-3)
    done = train(model, lambda step: {"tokens": windows(data.train, LENGTH, plan.batch, seed=1 + step)}, plan, setting)
    after = _attention(model, tokens)
    generator = torch.Generator().manual_seed(setting.seed)
    looked_at = {
        "untrained": before,
        "trained": after,
        "trained, rows shuffled": shuffled(after, generator),
        "random, full rank": _random(generator),
    }
    found = {name: _cumulative(weights) for name, weights in looked_at.items()}
    marks = [2**power for power in range(10)]
    shares = {name: [float(share[..., mark - 1].mean()) for mark in marks] for name, share in found.items()}
    quarter = {name: share[..., LENGTH // 4 - 1] for name, share in found.items()}
    means = {name: float(share.mean()) for name, share in quarter.items()}
    return Measurement(
        numbers={
            "share": means["trained"],
            "least share": float(quarter["trained"].min()),
            "over shuffled": means["trained"] - means["trained, rows shuffled"],
            "over random": means["trained"] - means["random, full rank"],
            "over untrained": means["trained"] - means["untrained"],
            "loss": done.last,
        },
        columns=["largest of 512", *shares],
        rows=[[str(mark), *(f"{shares[name][i]:.3f}" for name in shares)] for i, mark in enumerate(marks)],
        plot=Plot(
            x="singular values, largest first", y="share of their sum", y_log=False,
            dashed=tuple(name for name in shares if name != "trained"),
            series={name: list(zip(map(float, marks), shares[name], strict=True)) for name in shares},
        ),
        setup=(
            f"3 layers of 4 heads, width 128, half of the channels shifted by a byte, "
            f"{plan.steps:,} steps of {plan.batch} x {LENGTH} bytes of the standard library "
            "with 15% hidden "
            f"(training loss {done.last:.2f} nats at the end); mean over layers, heads and two windows of validation text"
        ),
    )  # fmt: skip


@torch.no_grad()
def _attention(model: LanguageModel, tokens: Tensor) -> Tensor:
    """(layers, B, H, N, N), float64."""
    found: list[Tensor] = []

    def look(layer: Any, given: Any, arguments: Any, output: Any) -> None:
        if not arguments.get("return_attention"):
            found.append(layer(*given, **{**arguments, "return_attention": True})[1].double())

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


def shuffled(weights: Tensor, generator: torch.Generator) -> Tensor:
    """(..., N, N) with each row in an order of its own."""
    return weights.gather(-1, torch.rand(weights.shape, generator=generator).argsort(dim=-1))


def _random(generator: torch.Generator) -> Tensor:
    """(1, 4, N, N): of Gaussian queries and keys with a channel for each position."""
    q, k = torch.randn(2, 1, 4, LENGTH, LENGTH, generator=generator, dtype=torch.float64)
    return softmax_attention(q, k, torch.eye(LENGTH, dtype=torch.float64).expand(1, 4, -1, -1))


def _cumulative(weights: Tensor) -> Tensor:
    """(..., N, N) -> (..., N): the running share of the singular values, the largest first."""
    values = torch.linalg.svdvals(weights)
    return (values / values.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
