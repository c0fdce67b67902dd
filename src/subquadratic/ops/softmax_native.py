"""Exact softmax attention in float32 on a CPU: the C kernels of `kernels/native/softmax.py`, with their backward.

Kept are the arguments, the output, and a number a query.

Axes: B batch, H heads, N length (queries), S length (keys), K head width.
"""

from typing import Any

import torch
from torch import Tensor

from ..kernels.native import softmax as kernel
from .once import once_differentiable
from .softmax_attention import dense_channels


class NativeSoftmaxAttention(torch.autograd.Function):
    """(queries, keys, values, causal) -> output (B, H, N, K); causal: query i sees keys up to S - N + i, and S is at least N."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
        queries, keys, values = dense_channels(queries), dense_channels(keys), dense_channels(values)
        output, normaliser = kernel.softmax_attention(queries, keys, values, causal)
        ctx.save_for_backward(queries, keys, values, output, normaliser)
        ctx.causal = causal
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, output, normaliser = ctx.saved_tensors
        gradient = dense_channels(d_output)
        return *kernel.softmax_attention_backward(gradient, queries, keys, values, ctx.causal, output, normaliser), None
