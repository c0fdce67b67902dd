"""Fastformer: its equations against our layer, and what summing raw keys changes.

Axes: B batch, N length, D width, H heads, K head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...attention.additive.layer import AdditiveAttention
from ...attention.additive.op import softmax_mean
from ...layers.multi_head import merge_heads, split_heads
from ..claim import Measurement, Setting, figure


class RawKeyAttention(AdditiveAttention):
    """With the slip of the published package: the global key is a mean of the keys, not of the keys times the global query.

    Bidirectional, without rotary positions; for comparison only.
    """

    def _mix(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *rest: Any) -> tuple[Tensor, tuple[()]]:
        _, _, query_logits, key_logits, _ = rest
        q, k, v = (split_heads(x, width=self.width) for x in (queries, keys, values))
        global_query = softmax_mean(self._scores(q, query_logits), q, mask)
        global_key = softmax_mean(self._scores(k * global_query, key_logits), k, mask)
        return self.transform(merge_heads(v * global_key)) + queries, ()


def sum_raw_keys_(model: nn.Module) -> nn.Module:
    """Every additive attention of a model with that slip; its weights stay."""
    for module in model.modules():
        if isinstance(module, AdditiveAttention):
            module.__class__ = RawKeyAttention
    return model


def by_equations(layer: AdditiveAttention, x: Tensor, *, raw_keys: bool = False) -> Tensor:
    """Equations 3 to 7, literally, with the weights of a layer: (B, N, D) -> (B, N, D)."""
    width = layer.width
    q, k = layer.query(x), layer.key(x)
    assert layer.query_logits is not None and layer.key_logits is not None
    alpha = (q @ layer.query_logits.T / width**0.5).softmax(dim=1)  # (B, N, H), eq. 3
    global_query = torch.einsum("bnh,bnhk->bhk", alpha, q.unflatten(-1, (-1, width)))  # eq. 4
    p = k.unflatten(-1, (-1, width)) * global_query[:, None]
    beta = (p.flatten(2) @ layer.key_logits.T / width**0.5).softmax(dim=1)  # eq. 5
    global_key = torch.einsum("bnh,bnhk->bhk", beta, k.unflatten(-1, (-1, width)) if raw_keys else p)  # eq. 6
    u = q.unflatten(-1, (-1, width)) * global_key[:, None]  # eq. 7, with v = q
    return layer.output(layer.transform(u.flatten(2)) + q)


@torch.no_grad()
def equations(setting: Setting) -> Measurement:
    """Our layer, and the slip, against the equations in float64."""
    rows, worst, slip = [], 0.0, 1.0
    for length in (1, 7, 64, 300):
        layer = AdditiveAttention(64, heads=4).double()
        x = torch.randn(2, length, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(setting.seed + length))
        exact = by_equations(layer, x)
        ours, raw = (float((found - exact).norm() / exact.norm()) for found in (layer(x), by_equations(layer, x, raw_keys=True)))
        worst, slip = max(worst, ours), min(slip, raw)
        rows.append([str(length), figure(ours), figure(raw)])
    return Measurement(
        numbers={"error": worst, "raw keys": slip},
        columns=["length", "our layer", "raw keys summed"],
        rows=rows,
        setup="one layer of 4 heads, width 64, fresh weights, in float64; norm of the difference over norm",
    )
