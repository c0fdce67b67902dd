"""The residual stream on its way into a branch, by the C kernels: the sum and its layer norm, float32 on a CPU, with their backward.

Kept are the sum, which the stream keeps anyway, and two numbers a row; the gradients of the stream and of the norm are added in one pass.

Axes: B batch, N length, D width, T rows (batch and length together).
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.backend import PLAIN, are_float32, chosen_backend, takes_native
from ...kernels.derivatives import gradients_of, is_followed
from ...kernels.native.checks import asks, whole
from ...kernels.native.library import Arguments, call, has_matrix_unit
from ...kernels.native.operators import INT64, POINTER, fields, operator

FEWEST_NUMBERS = 1 << 19  # below, a call costs what it saves
POINTERS = ("x", "delta", "weight", "bias", "sum", "y", "stats", "d_sum", "d_y", "d_x", "d_weight", "d_bias", "sums")


class AddNorm(Arguments, layout="add_norm"):
    """``add_norm`` of add_norm.c."""

    _fields_ = [
        *((name, POINTER) for name in POINTERS),
        *((name, INT64) for name in ("rows", "dim", "shares", "threads")),
        ("epsilon", ctypes.c_float),
    ]


def _call(name: str, x: Tensor, weight: Tensor, **more: Any) -> None:
    given = fields(x=x, weight=weight, rows=x.shape[0], dim=x.shape[1], **more)
    call(name, AddNorm(**given))


def _outputs_like(x: Tensor, delta: Tensor | None, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(0) if delta is None else torch.empty_like(x), torch.empty_like(x), x.new_empty(len(x), 2)


@operator(fake=_outputs_like, check=asks(x="T D", delta="T D", weight="D", bias="D"))
def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """x + delta (nothing where there is no delta) and its layer norm, (T, D), and what backward needs: mean and 1 / deviation, (T, 2)."""
    total, y, stats = _outputs_like(x, delta)
    more = {} if delta is None else dict(delta=delta, sum=total)
    _call("add_norm_forward", x, weight, bias=bias, y=y, stats=stats, epsilon=epsilon, **more)
    return total, y, stats


def _gradients_like(d_sum: Tensor | None, d_y: Tensor, x: Tensor, weight: Tensor, stats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


@operator(fake=_gradients_like, check=asks(x="T D", d_sum="T D", d_y="T D", weight="D", stats="T 2"))
def add_norm_backward(d_sum: Tensor | None, d_y: Tensor, x: Tensor, weight: Tensor, stats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the sum ``x`` (T, D), which may have one of its own besides that of its norm, and of weight and bias."""
    d_x, d_weight, d_bias = _gradients_like(d_sum, d_y, x, weight, stats)
    shares = max(1, min(torch.get_num_threads(), len(x)))
    sums = x.new_empty(shares * 2 * whole(x.shape[1]))
    more = {} if d_sum is None else dict(d_sum=d_sum)
    _call("add_norm_backward", x, weight, stats=stats, d_y=d_y, d_x=d_x, d_weight=d_weight, d_bias=d_bias, sums=sums, shares=shares, **more)
    return d_x, d_weight, d_bias


def suits(x: Tensor, delta: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether the kernels are the faster way for (B, N, D) twice and (D,) twice, and can be taken.

    They gain something beside a matrix unit alone, where the products around them take less time (docs/guide/kernels.md).
    """
    if torch.compiler.is_compiling() or x.numel() < FEWEST_NUMBERS:
        return False
    if weight is None or bias is None or not (has_matrix_unit() or chosen_backend() == "native"):
        return False
    tensors = (x, weight, bias, *(() if delta is None else (delta,)))
    return (
        all(type(y) in PLAIN for y in tensors)
        and are_float32(x.device, tensors)
        and (delta is None or delta.shape == x.shape)
        and weight.shape == bias.shape == x.shape[-1:]
        and takes_native(None, x)
    )


class NativeAddNorm(torch.autograd.Function):
    """(x, delta, weight, bias, epsilon) -> (x + delta, its layer norm)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        more = None if delta is None else delta.reshape(rows.shape).contiguous()
        total, y, stats = add_norm(rows, more, weight.contiguous(), bias.contiguous(), epsilon)
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
            d_x, d_weight, d_bias = add_norm_backward(d_sum, d_y, sums, weight.contiguous(), stats)
            d_x = d_x.view(total.shape)
        return *(gradient if need else None for gradient, need in zip((d_x, d_x, d_weight, d_bias), needs, strict=False)), None
