"""The position-wise feed-forward layer in float32 on a CPU: the C kernels of `native_operators.py`, with their backward.

Kept are the arguments and what comes before the activation; PyTorch's maps keep what comes after it too.

Axes: T rows (batch and length together), D width in, F inner width, E width out.
"""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from ...core.backend import PLAIN, are_float32, takes_native
from ...core.shape_only import ShapeOnly
from ...kernels.derivatives import differentiable, keep, kept
from . import native_operators as kernel

FEWEST_ROWS = 256  # below, packing the weights costs what the kernel saves
KINDS = (*PLAIN, FakeTensor, ShapeOnly)  # the last two have a shape alone, for estimates
MOST_WEIGHTS = 1 << 20  # of one map: larger ones leave the caches, and a matrix library is at its best with them


def are_rows_enough(x: Tensor) -> bool:
    """Whether (..., D) has rows enough for the kernels to be the faster way."""
    return x.numel() >= FEWEST_ROWS * max(x.shape[-1], 1)


def suits(x: Tensor, expand: Tensor, expand_bias: Tensor | None, contract: Tensor, contract_bias: Tensor | None) -> bool:
    """Whether the kernels are the faster way for (..., D), (F, D), (F,), (E, F), (E,), and can be taken."""
    rows = x.numel() // max(x.shape[-1], 1)
    tensors = (x, expand, expand_bias, contract, contract_bias)
    return (
        are_rows_enough(x)
        and x.shape[-1] == expand.shape[1]  # else PyTorch says what does not fit
        and max(expand.numel(), contract.numel()) <= MOST_WEIGHTS
        and all(type(y) in KINDS for y in tensors)
        and are_float32(x.device, tensors)  # type: ignore[arg-type]
        and not torch.is_autocast_enabled("cpu")
        and takes_native(None, x)
        and kernel.shares_of(rows, contract) == torch.get_num_threads()
    )


def feed_forward(x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, contract_bias: Tensor) -> Tensor:
    """What the kernels compute, by PyTorch's operators."""
    inner = F.linear(x, expand, expand_bias)
    if len(expand) == contract.shape[1]:
        inner = F.gelu(inner)
    else:
        gate, value = inner.chunk(2, dim=-1)
        inner = F.gelu(gate) * value
    return F.linear(inner, contract, contract_bias)


class NativeFeedForward(torch.autograd.Function):
    """(x, expand, expand_bias, contract, contract_bias) -> contract(gelu(expand(x))): (T, D) -> (T, E).

    Where ``expand`` has twice as many rows as ``contract`` has columns, the first half are gates: gelu of the one times the other.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, contract_bias: Tensor) -> Tensor:
        given, again = (x, expand, expand_bias, contract, contract_bias), any(ctx.needs_input_grad)
        output, inner = kernel.feed_forward(*(y.contiguous() for y in given), again)
        if again:
            keep(ctx, given, inner)
        return output

    @staticmethod
    @differentiable(feed_forward)
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        given, (inner,) = kept(ctx)
        x, expand, _, contract, _ = (y.contiguous() for y in given)
        wants_x, wants_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:])
        found = kernel.feed_forward_backward(d_output.contiguous(), x, expand, contract, inner, wants_x, wants_weights)
        return tuple(gradient if wants else None for gradient, wants in zip(found, ctx.needs_input_grad, strict=True))
