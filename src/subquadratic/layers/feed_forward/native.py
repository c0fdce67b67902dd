"""The position-wise feed-forward layer by the C kernels: float32 on a CPU, with its backward.

Kept are the arguments and what comes before the activation; PyTorch's maps keep what comes after it too.

Axes: T rows (batch and length together), D width in, F inner width, E width out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from ...core.backend import PLAIN, are_float32, takes_native
from ...core.shape_only import ShapeOnly
from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.native.checks import asks, whole
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, fields, operator

FEWEST_ROWS = 256  # below, packing the weights costs what the kernel saves
KINDS = (*PLAIN, FakeTensor, ShapeOnly)  # the last two have a shape alone, for estimates
MOST_WEIGHTS = 1 << 20  # of one map: larger ones leave the caches, and a matrix library is at its best with them
FITS = {"P in (F, 2 * F)": "expand must have as many rows as contract has columns, {F}, or of a gated layer twice as many, got {P}"}
PANEL = 64  # the widest that a panel of feed_forward.c is
POINTERS = ("x", "expand", "expand_bias", "contract", "contract_bias", "y", "inner", "d_y")
GRADIENTS = ("d_x", "d_expand", "d_expand_bias", "d_contract", "d_contract_bias")


class FeedForward(Arguments, layout="feed_forward"):
    """``feed_forward`` of feed_forward.c."""

    _fields_ = [
        *((name, POINTER) for name in (*POINTERS, *GRADIENTS, "packed", "sums")),
        *((name, INT64) for name in ("rows", "dim", "wide", "out", "maps", "shares", "threads")),
    ]  # fmt: skip


def _call(name: str, x: Tensor, expand: Tensor, contract: Tensor, **more: Any) -> None:
    (rows, dim), (out, wide), maps = x.shape, contract.shape, len(expand) // contract.shape[1]
    numbers = maps * (wide + PANEL) * (dim + PANEL) + (wide + PANEL) * (out + PANEL)
    packed = x.new_empty(numbers * 3 // 2)  # a matrix unit's numbers are three of bfloat16 each
    given = fields(x=x, expand=expand, contract=contract, packed=packed, rows=rows, dim=dim, wide=wide, out=out, maps=maps, **more)
    call(name, FeedForward(**given))


def _outputs_like(
    x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, contract_bias: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    out, wide = contract.shape
    inner = x.new_empty(x.shape[0], len(expand) // wide, whole(wide)) if keep else x.new_empty(0)
    return x.new_empty(x.shape[0], out), inner


def _work_of_feed_forward(x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, *_: Any) -> int:
    return len(x) * (expand.numel() + contract.numel())


@operator(
    work=_work_of_feed_forward,
    fake=_outputs_like,
    check=asks(x="T D", contract="E F", contract_bias="E", expand="P D", expand_bias="P", require=FITS),
)
def feed_forward(
    x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, contract_bias: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    """contract(gelu(expand(x))) of x (T, D), and what backward needs in addition to the arguments if ``keep``.

    ``expand`` (F, D) or, of a gated layer, (2F, D): gates, then what they gate; ``contract`` (E, F).
    """
    y, inner = _outputs_like(x, expand, expand_bias, contract, contract_bias, keep)
    _call(
        "feed_forward_forward", x, expand, contract, expand_bias=expand_bias, contract_bias=contract_bias,
        y=y, inner=inner if keep else None,
    )  # fmt: skip
    return y, inner


def _gradients_like(
    d_y: Tensor, x: Tensor, expand: Tensor, contract: Tensor, inner: Tensor, wants_x: bool, wants_weights: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    nothing = x.new_empty(0)
    weights = (torch.empty_like(expand), x.new_empty(len(expand)), torch.empty_like(contract), x.new_empty(len(contract)))
    if not wants_weights:
        weights = (nothing, nothing.clone(), nothing.clone(), nothing.clone())
    return torch.empty_like(x) if wants_x else nothing.clone(), *weights


def _work_of_feed_forward_backward(
    d_y: Tensor, x: Tensor, expand: Tensor, contract: Tensor, inner: Tensor, wants_x: bool, wants_weights: bool
) -> int:
    expanding, contracting = expand.numel(), contract.numel()
    return len(x) * (contracting + wants_x * expanding + wants_weights * (expanding + contracting))


@operator(
    work=_work_of_feed_forward_backward,
    fake=_gradients_like,
    check=asks(
        x="T D", contract="E F", expand="P D", d_y="T E", inner="T G W", sizes={"G": "2 if P > F else 1", "W": "whole(F)"}, require=FITS
    ),
)
def feed_forward_backward(
    d_y: Tensor, x: Tensor, expand: Tensor, contract: Tensor, inner: Tensor, wants_x: bool, wants_weights: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, of the expanding map's weights and bias, and of the contracting one's; of no numbers where they are not wanted."""
    found = _gradients_like(d_y, x, expand, contract, inner, wants_x, wants_weights)
    wanted = (wants_x, *[wants_weights] * 4)
    given = {name: gradient for name, gradient, wants in zip(GRADIENTS, found, wanted, strict=True) if wants}
    shares = shares_of(len(x), contract)
    out, wide = contract.shape
    each = (len(expand) // wide * (x.shape[1] + 1) + out) * whole(wide) + whole(out)
    sums = x.new_empty(shares * each) if wants_weights else None
    _call("feed_forward_backward", x, expand, contract, d_y=d_y, inner=inner, sums=sums, shares=shares, **given)
    return found


def shares_of(rows: int, contract: Tensor) -> int:
    """How many shares of the rows sum up the weights' gradients, each in memory of its own: all of them in no more than twice what is
    kept for backward."""
    return max(1, min(torch.get_num_threads(), rows // min(contract.shape)))


def are_rows_enough(x: Tensor) -> bool:
    """Whether (..., D) has rows enough for the kernels to be the faster way."""
    return x.numel() >= FEWEST_ROWS * max(x.shape[-1], 1)


def suits(x: Tensor, expand: Tensor, contract: Tensor) -> bool:
    """Whether the kernels are the faster way for (..., D), (F, D) and (E, F) where :func:`are_rows_enough`."""
    rows = x.numel() // max(x.shape[-1], 1)
    return max(expand.numel(), contract.numel()) <= MOST_WEIGHTS and shares_of(rows, contract) == torch.get_num_threads()


def can_be_taken(x: Tensor, floats: Sequence[Tensor | None], *, width: int | None = None) -> bool:
    """Whether the kernels can compute (..., D), (F, D), (F,), (E, F), (E,). ``width``: D, where ``floats`` do not begin with (F, D)."""
    tensors = (x, *floats)
    width = floats[0].shape[1] if width is None else width  # type: ignore[union-attr]
    return (
        x.shape[-1] == width  # else PyTorch says what does not fit
        and all(type(y) in KINDS for y in tensors)
        and are_float32(x.device, tensors)  # type: ignore[arg-type]
        and not torch.is_autocast_enabled("cpu")
        and takes_native(None, x)
    )


def feed_forward_by_formula(x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, contract_bias: Tensor) -> Tensor:
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
        given, differentiated = (x, expand, expand_bias, contract, contract_bias), any(ctx.needs_input_grad)
        output, inner = feed_forward(*(y.contiguous() for y in given), differentiated)
        if differentiated:
            keep(ctx, given, inner)
        return output

    @staticmethod
    @differentiable(feed_forward_by_formula)
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        given, (inner,) = kept(ctx)
        x, expand, _, contract, _ = (y.contiguous() for y in given)
        wants_x, wants_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:])
        found = feed_forward_backward(d_output.contiguous(), x, expand, contract, inner, wants_x, wants_weights)
        return tuple(gradient if wants else None for gradient, wants in zip(found, ctx.needs_input_grad, strict=True))
