"""Softmax pooling of turned positions in float32 on a CPU: the C kernels of `native_mean_operators.py`, with their backward.

Kept are the arguments, and a logit for each head and position.

Axes: B batch, H heads, N length, K head width, D = H K.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.backend import takes_native
from ...core.layout import dense_channels
from ...core.numerics import EMPTY
from ...kernels.derivatives import differentiable, keep, kept
from ...layers.rotary.op import is_rotation_of, turn
from . import native_mean_operators as kernel


def suits(x: Tensor, turns: Tensor | None, *logits: Tensor) -> bool:
    """Whether the kernels can pool (B, H, N, K) by logits of these weights (H, D): all is of shapes that fit (else PyTorch says what does
    not)."""
    heads, width = x.shape[1], x.shape[3]
    return (
        (turns is None or is_rotation_of(turns, x))
        and all(weights.shape == (heads, heads * width) and weights.dtype is x.dtype for weights in logits)
        and takes_native(None, x)
    )


def pool(
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


class NativePool(torch.autograd.Function):
    """(x, turns, weights, mask, late, scale, write) -> (mean (B, H, 1, K), what it is of or nothing), as the operator ``pool``; and x, for
    what else reads it: that gradient is added on the way."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, turns: Tensor | None, weights: Tensor, mask: Tensor | None, late: bool, scale: float, write: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, turned, logits, normaliser = kernel.pool(*_laid_out(x, turns, weights, mask), late, scale, write)
        keep(ctx, (x, turns, weights, mask, late, scale, write), mean, logits, normaliser)
        ctx.set_materialize_grads(False)
        return mean, turned, x.view_as(x)

    @staticmethod
    @differentiable(pool)
    def backward(ctx: Any, d_mean: Tensor | None, d_turned: Tensor | None, d_more: Tensor | None) -> tuple[Any, ...]:
        (*given, late, scale, _), (mean, *made) = kept(ctx)
        x, turns, weights, mask = _laid_out(*given)
        d_mean = torch.zeros_like(mean) if d_mean is None else d_mean.contiguous()
        d_turned = None if d_turned is None or not d_turned.numel() else dense_channels(d_turned)
        d_more = None if d_more is None else dense_channels(d_more)
        d_x, d_weights = kernel.pool_backward(d_mean, d_turned, d_more, x, turns, weights, mask, late, scale, mean, *made)
        return d_x, None, d_weights.sum(dim=0) if weights.dim() == 2 else d_weights, None, None, None, None


def _laid_out(
    x: Tensor, turns: Tensor | None, weights: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """As the kernels want them."""
    turns, mask = (None if y is None else y.contiguous() for y in (turns, mask))
    return dense_channels(x), turns, weights.contiguous(), mask
