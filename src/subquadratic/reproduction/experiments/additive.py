"""Fastformer: its equations against our layer, and what summing raw keys changes.

Axes: B batch, N length, D width, H heads, K head width.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ...attention.additive.layer import AdditiveAttention
from ...attention.additive.op import softmax_mean
from ...benchmark.work import relative_error
from ...layers.multi_head import merge_heads, split_heads
from ..claim import Measurement, Setting, figure
from .favor_formula import computed
from .worst import largest


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
    """Fastformer's equations word for word, in float64, with the weights of a layer: (B, N, D) -> (B, N, D).

    A causal layer has them of the positions up to each. Of a rotary one q, k and v are complex numbers, turned by their positions, and a
    global vector's conjugate is what they are multiplied by; p is turned once more before its mean is taken.
    """
    layer = copy.deepcopy(layer).double()
    x, width, heads = x.double(), layer.width, layer.heads
    flat, k = layer.query(x), _numbers(layer.key(x), layer)
    assert layer.query_logits is not None and layer.key_logits is not None
    q = _numbers(flat, layer)  # (B, N, H, K), or K / 2 complex numbers
    turns = _turns(x.shape[1], width) if layer.rotary else torch.ones(1, 1, dtype=torch.float64)
    q, k = q * turns, k * turns
    alpha = _shares(flat @ layer.query_logits.T / width**0.5, causal=layer.causal)  # (B, N, N, H): of each position's mean
    global_query = torch.einsum("bijh,bjhk->bihk", alpha.to(q.dtype), q)
    p = k * global_query.conj()
    beta = _shares(_channels(p).flatten(2) @ layer.key_logits.T / width**0.5, causal=layer.causal)
    meant = (k if raw_keys else p) * turns if layer.rotary else (k if raw_keys else p)
    global_key = torch.einsum("bijh,bjhk->bihk", beta.to(q.dtype), meant)
    u = _channels(q * global_key.conj())  # v = q
    assert u.shape[2:] == (heads, width)
    return layer.output(layer.transform(u.flatten(2)) + flat)


def _shares(logits: Tensor, *, causal: bool) -> Tensor:
    """(B, N, H) -> (B, N, N, H): what each position counts in the mean that each reads."""
    pairs = logits[:, None].expand(-1, logits.shape[1], -1, -1)
    if causal:
        future = torch.ones(pairs.shape[1:3], dtype=torch.bool).triu(1)
        pairs = pairs.masked_fill(future[None, :, :, None], -torch.inf)
    return pairs.softmax(dim=2)


def _numbers(x: Tensor, layer: AdditiveAttention) -> Tensor:
    """(B, N, H K) -> (B, N, H, K); of a rotary layer K / 2 complex numbers, whose parts are channels i and i + K / 2."""
    x = x.unflatten(-1, (-1, layer.width))
    return torch.complex(*x.chunk(2, dim=-1)) if layer.rotary else x


def _channels(x: Tensor) -> Tensor:
    return torch.cat((x.real, x.imag), dim=-1) if x.is_complex() else x


def _turns(length: int, width: int) -> Tensor:
    """(N, 1, K / 2) complex numbers of length 1."""
    rates = 10_000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.polar(torch.ones_like(angles), angles)[:, None]


@torch.no_grad()
def equations(setting: Setting) -> Measurement:
    """Our layer, and the slip, against the equations in float64."""
    rows = []
    found: dict[str, list[float]] = {"float64": [], "float32": [], "raw keys": []}
    for causal, rotary in ((False, False), (True, False), (False, True), (True, True)):
        for length in (1, 7, 64, 300):
            torch.manual_seed(setting.seed + length)
            layer = AdditiveAttention(64, heads=4, causal=causal, rotary=rotary)
            x = torch.randn(2, length, 64)
            exact, raw = by_equations(layer, x), relative_error(by_equations(layer, x, raw_keys=True), by_equations(layer, x))
            single = relative_error(layer(x), exact)
            double = relative_error(layer.double()(x.double()), exact)
            for name, value in (("float64", double), ("float32", single), ("raw keys", raw)):
                found[name].append(value)
            form = f"{'causal' if causal else 'bidirectional'}{', rotary' if rotary else ''}"
            rows.append([form, str(length), figure(double), figure(single), figure(raw)])
    return Measurement(
        numbers={
            "float64": largest(found["float64"]), "float32": largest(found["float32"]), "raw keys": -largest(-x for x in found["raw keys"]),
        },
        columns=["form", "length", "our layer, float64", "our layer, float32", "raw keys summed"],
        rows=rows,
        setup=(
            f"one layer of 4 heads, width 64, fresh weights, float32 by {computed()}; norm of the difference from the equations in float64 "
            "over norm"
        ),
    )  # fmt: skip


def difference_of(layer: AdditiveAttention, dim: int) -> float:
    """The same of a layer of width D that does something else besides."""
    x = torch.randn(1, 300, dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return relative_error(layer(x), by_equations(layer, x))
