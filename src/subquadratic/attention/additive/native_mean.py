"""Softmax pooling of turned positions by C kernels (mean.c): as operators that PyTorch knows, with their backward, float32 on a CPU.

Kept for backward are the arguments, and a logit for each head and position.

Axes: B batch, H heads, N length, K head width, D = H K.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from ...core.layout import dense_channels, positions_first
from ...core.numerics import EMPTY
from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.native.checks import asks, whole
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, Rows, fields, operator, positions, shares_of, turns_step
from ...layers.rotary.op import is_rotation_of, turn

GIVEN: dict[str, Any] = dict(x="B H N K, rows", turns="N K | 1 1 N K | B 1 N K", weights="H H*K | B H H*K", mask="B N, bool")
FITS = {"turns is None or K % 2 == 0": "channels are turned in pairs, got {K}"}
ROWS = ("queries", "output", "d_output", "d_queries", "d_more")
POINTERS = ("turns", "live", "weights", "logits", "normaliser", "mean", "d_mean", "d_weights", "sums")
SIZES = ("batch", "heads", "length", "width", "turns_step", "weights_step", "shares", "threads", "late")


class Pool(Arguments, layout="pool"):
    """``pool`` of mean.c."""

    _fields_ = [
        *((name, Rows) for name in ROWS),
        *((name, POINTER) for name in POINTERS),
        *((name, INT64) for name in SIZES),
        ("scale", ctypes.c_float),
    ]


def _call(name: str, x: Tensor, turns: Tensor | None, weights: Tensor, mask: Tensor | None, late: bool, scale: float, **more: Any) -> None:
    batch, heads, length, width = x.shape
    shares = shares_of(batch, length)
    sums = x.new_empty(batch * shares * heads * (heads * whole(width) + 16))
    given = fields(
        queries=x, turns=turns, weights=weights, live=mask, late=late, scale=scale, shares=shares,
        batch=batch, heads=heads, length=length, width=width,
        turns_step=turns_step(turns, length, width),
        weights_step=0 if weights.dim() == 2 else heads * heads * width,
        sums=sums, **more,
    )  # fmt: skip
    call(name, Pool(**given))


def _turned_mean_like(
    x: Tensor, turns: Tensor | None, weights: Tensor, mask: Tensor | None, late: bool, scale: float, write: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, heads, length, width = x.shape
    turned = positions_first(x) if write else x.new_empty(0)
    return x.new_empty(batch, heads, 1, width), turned, x.new_empty(batch, length, heads), x.new_empty(batch, heads, 2)


def _work_of_turned_mean(x: Tensor, *_: Any) -> int:
    return positions(x) * (x.shape[1] + 1) * x.shape[3]


@operator(work=_work_of_turned_mean, fake=_turned_mean_like, check=asks(**GIVEN, require=FITS))
def turned_mean(
    x: Tensor, turns: Tensor | None, weights: Tensor, mask: Tensor | None, late: bool, scale: float, write: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The mean of turned positions under the softmax of their logits; all of a head's channels say how much a position counts for it.

    Args:
        x: (B, H, N, K).
        turns: (N, K) or (B, 1, N, K), cosines and then sines; None: nothing is turned.
        weights: (H, D) or (B, H, D), whose products with a position, times ``scale``, are the logits of its heads.
        mask: (B, N), real tokens; None: all are.
        late: logits are of positions turned once, and the mean is of those turned twice; else of x, and of those turned once.
        write: give back what the mean is of.

    Returns:
        The mean (B, H, 1, K), zero where there is no real token; what it is of (B, H, N, K), or nothing; logits (B, N, H) to base 2, and
        their largest and 1 / the sum of exponentials relative to it (B, H, 2).
    """
    mean, turned, logits, normaliser = _turned_mean_like(x, turns, weights, mask, late, scale, write)
    more = dict(output=turned) if write else {}
    _call("pool_forward", x, turns, weights, mask, late, scale, mean=mean, logits=logits, normaliser=normaliser, **more)
    return mean, turned, logits, normaliser


def _gradients_like(
    d_mean: Tensor, d_turned: Tensor | None, d_more: Tensor | None, x: Tensor, turns: Tensor | None, weights: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return positions_first(x), x.new_empty(x.shape[0], *weights.shape[-2:])


def _work_of_turned_mean_backward(d_mean: Tensor, d_turned: Tensor | None, d_more: Tensor | None, x: Tensor, *_: Any) -> int:
    return positions(x) * (2 * x.shape[1] + 1) * x.shape[3]


@operator(
    work=_work_of_turned_mean_backward,
    fake=_gradients_like,
    check=asks(
        **GIVEN, d_mean="B H 1 K", d_turned="B H N K, rows", d_more="B H N K, rows", mean="B H 1 K", logits="B N H", normaliser="B H 2",
        require=FITS,
    ),
)  # fmt: skip
def turned_mean_backward(
    d_mean: Tensor,
    d_turned: Tensor | None,
    d_more: Tensor | None,
    x: Tensor,
    turns: Tensor | None,
    weights: Tensor,
    mask: Tensor | None,
    late: bool,
    scale: float,
    mean: Tensor,
    logits: Tensor,
    normaliser: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of x, to which ``d_more`` is added, and of the weights (B, H, D)."""
    d_x, d_weights = _gradients_like(d_mean, d_turned, d_more, x, turns, weights)
    more = {name: x for name, x in (("d_output", d_turned), ("d_more", d_more)) if x is not None}
    _call(
        "pool_backward", x, turns, weights, mask, late, scale,
        mean=mean, logits=logits, normaliser=normaliser, d_mean=d_mean, d_queries=d_x, d_weights=d_weights, **more,
    )  # fmt: skip
    return d_x, d_weights


def fits(x: Tensor, turns: Tensor | None, *logits: Tensor) -> bool:
    """Whether the kernels take (B, H, N, K) and the logits of these weights (H, D): all is of shapes that fit (else PyTorch says what does
    not)."""
    heads, width = x.shape[1], x.shape[3]
    return (turns is None or is_rotation_of(turns, x)) and all(
        weights.shape == (heads, heads * width) and weights.dtype is x.dtype for weights in logits
    )


def turned_mean_by_formula(
    x: Tensor, turns: Tensor | None, weights: Tensor, mask: Tensor | None, late: bool, scale: float, write: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What the kernels compute, by PyTorch's operators."""
    turned = x if turns is None else turn(x, turns)
    scored, content = (turned, turned if turns is None else turn(turned, turns)) if late else (x, turned)
    written = content if write else None
    logits = (scored.transpose(1, 2).flatten(2) @ weights.mT).transpose(1, 2) * scale
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None], EMPTY)
        content = content.masked_fill(~mask[:, None, :, None], 0.0)
    return logits.softmax(dim=-1)[..., None, :] @ content, written, x


class NativeMean(torch.autograd.Function):
    """(x, turns, weights, mask, late, scale, write) -> (mean (B, H, 1, K), what it is of or nothing), as the operator ``turned_mean``; and
    x, for what else reads it: that gradient is added on the way."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, turns: Tensor | None, weights: Tensor, mask: Tensor | None, late: bool, scale: float, write: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, turned, logits, normaliser = turned_mean(*_laid_out(x, turns, weights, mask), late, scale, write)
        keep(ctx, (x, turns, weights, mask, late, scale, write), mean, logits, normaliser)
        ctx.set_materialize_grads(False)
        return mean, turned, x.view_as(x)

    @staticmethod
    @differentiable(turned_mean_by_formula)
    def backward(ctx: Any, d_mean: Tensor | None, d_turned: Tensor | None, d_more: Tensor | None) -> tuple[Any, ...]:
        (*given, late, scale, _), (mean, *made) = kept(ctx)
        x, turns, weights, mask = _laid_out(*given)
        d_mean = torch.zeros_like(mean) if d_mean is None else d_mean.contiguous()
        d_turned = None if d_turned is None or not d_turned.numel() else dense_channels(d_turned)
        d_more = None if d_more is None else dense_channels(d_more)
        d_x, d_weights = turned_mean_backward(d_mean, d_turned, d_more, x, turns, weights, mask, late, scale, mean, *made)
        return d_x, None, d_weights.sum(dim=0) if weights.dim() == 2 else d_weights, None, None, None, None


def _laid_out(x: Tensor, turns: Tensor | None, weights: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """As the kernels want them."""
    turns, mask = (None if y is None else y.contiguous() for y in (turns, mask))
    return dense_channels(x), turns, weights.contiguous(), mask
