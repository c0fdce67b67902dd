"""The residual stream on its way into a branch, in float32 on a CPU: the C kernels of `native_operators.py`, with their backward.

Kept are the sum, which the stream keeps anyway, and two numbers a row; the gradients of the stream and of the norm are added in one pass.

Axes: B batch, N length, D width, T rows (batch and length together).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.backend import PLAIN, are_float32, takes_native
from ...kernels.derivatives import gradients_of, is_followed
from . import native_operators as kernel

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
        total = x if delta is None else total.view(x.shape)
        # The sum as it is given back, not what was computed of: autograd then knows how it depends on x and delta.
        ctx.save_for_backward(total, weight, bias, stats)
        ctx.epsilon = epsilon
        ctx.set_materialize_grads(False)
        return x.view_as(x) if delta is None else total, y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, d_sum: Tensor | None, d_y: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, bias, stats = ctx.saved_tensors
        if d_y is None:  # nobody asked for the norm
            return d_sum, d_sum, None, None, None
        needs = ctx.needs_input_grad
        if is_followed():
            d_x, d_weight, d_bias = gradients_of(
                lambda x, weight, bias: F.layer_norm(x, weight.shape, weight, bias, ctx.epsilon),
                (total, weight, bias), (any(needs[:2]), *needs[2:4]), (d_y,),
            )  # fmt: skip
            d_x = d_x if d_sum is None or d_x is None else d_x + d_sum
        else:
            rows = (-1, total.shape[-1])
            d_sum, d_y, sums = (None if one is None else one.reshape(rows).contiguous() for one in (d_sum, d_y, total))
            d_x, d_weight, d_bias = kernel.add_norm_backward(d_sum, d_y, sums, weight.contiguous(), stats)
            d_x = d_x.view(total.shape)
        return *(gradient if need else None for gradient, need in zip((d_x, d_x, d_weight, d_bias), needs, strict=False)), None
