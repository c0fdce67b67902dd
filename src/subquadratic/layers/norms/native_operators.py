"""Adding to the residual stream and normalising the sum by the C kernels, as operators that PyTorch knows: forward and backward, float32
on a CPU.

Axes: T rows (batch and length together), D width.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from ...kernels.native.checks import asks, whole
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, fields, operator

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
