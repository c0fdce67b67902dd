"""The residual stream on its way into a branch, in float32 on a CPU: the C kernels of `kernels/native/add_norm.py`, with their backward.

Kept are the sum, which the stream keeps anyway, and two numbers a row; the gradients of the stream and of the norm are added in one pass.

Axes: B batch, N length, D width, T rows (batch and length together).
"""

from typing import Any

import torch
from torch import Tensor

from ..kernels.native import add_norm as kernel
from .backend import PLAIN, are_float32, takes_native
from .once import once_differentiable

FEWEST = 1 << 19  # numbers below which a call costs what it saves


def suits(x: Tensor, delta: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether the kernels are the faster way for (B, N, D) twice and (D,) twice, and can be taken."""
    if x.numel() < FEWEST or weight is None or bias is None:
        return False
    tensors = (x, weight, bias, *(() if delta is None else (delta,)))
    return (
        all(type(y) in PLAIN for y in tensors)
        and are_float32(x.device, tensors)
        and (delta is None or delta.shape == x.shape)
        and weight.shape == bias.shape == x.shape[-1:]
        and takes_native(None, x)
    )


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x + delta, or x where there is no delta, and its layer norm, (B, N, D) both."""
    total, y = NativeAddNorm.apply(x, delta, weight, bias, epsilon)
    return total, y


class NativeAddNorm(torch.autograd.Function):
    """(x, delta, weight, bias, epsilon) -> (x + delta, its layer norm)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        more = None if delta is None else delta.reshape(rows.shape).contiguous()
        total, y, stats = kernel.add_norm(rows, more, weight.contiguous(), bias.contiguous(), epsilon)
        total = rows if delta is None else total
        ctx.save_for_backward(total, weight, stats)
        ctx.set_materialize_grads(False)
        return x.view_as(x) if delta is None else total.view(x.shape), y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_sum: Tensor | None, d_y: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, stats = ctx.saved_tensors
        if d_y is None:  # nobody asked for the norm
            return d_sum, d_sum, None, None, None
        shape = d_y.shape
        d_sum, d_y = (None if one is None else one.reshape(total.shape).contiguous() for one in (d_sum, d_y))
        d_x, d_weight, d_bias = kernel.add_norm_backward(d_sum, d_y, total, weight.contiguous(), stats)
        found = (d_x.view(shape), d_x.view(shape), d_weight, d_bias)
        return *(gradient if need else None for gradient, need in zip(found, ctx.needs_input_grad, strict=False)), None
