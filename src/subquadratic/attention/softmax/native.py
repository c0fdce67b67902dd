"""Exact softmax attention in float32 on a CPU: the C kernels of `native_operators.py`, with their backward.

Kept are the arguments, the output, and a number a query.

Axes: B batch, H heads, N length (queries), S length (keys), K head width.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.layout import dense_channels
from ...kernels.derivatives import differentiable, keep, kept
from . import native_operators as kernel
from .op import softmax_attention


def _composition(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
    return softmax_attention(queries, keys, values, causal=causal)


class NativeSoftmaxAttention(torch.autograd.Function):
    """(queries, keys, values, causal) -> output (B, H, N, K); causal: query i sees keys up to S - N + i, and S is at least N."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
        output, normaliser = kernel.softmax_attention(dense_channels(queries), dense_channels(keys), dense_channels(values), causal)
        keep(ctx, (queries, keys, values, causal), output, normaliser)
        return output

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        (*given, causal), (output, normaliser) = kept(ctx)
        rows = (dense_channels(x) for x in (d_output, *given))
        return *kernel.softmax_attention_backward(*rows, causal, output, normaliser), None
