"""Keeping NaN and infinity out of the outputs of earlier positions.

Causal mechanisms work on chunks: what an earlier position may not see is multiplied by zero, and zero times NaN or infinity is NaN. One sum
over the outputs tells whether there is such a value among them; only then is the first position that causes one searched for.

Axes: B batch, H heads, N length, S length of keys, V width of values.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .backend import PLAIN, is_traced
from .tracing import may_look


def keep_out(attend: Callable[..., Tensor], inputs: Sequence[Tensor], output: Tensor, mask: Tensor | None = None) -> Tensor:
    """``output`` = ``attend(*inputs)``, with NaN and infinity kept out of the positions before the first that causes one.

    On a CPU, outside of compilers and ``torch.func``: elsewhere the check would make a GPU synchronise, or is not possible.

    Args:
        attend: causal, bit for bit, for inputs without NaN and infinity.
        inputs: (B, H, N, ...) or, with past before them, (B, H, S, ...).
        output: (B, H, N, V).
        mask: (B, N) bool: positions of which the output counts; None: all.
    """
    batch, _, length, _ = output.shape
    if length == 1 or not output.is_cpu or type(output) not in PLAIN or is_traced() or not may_look(output):
        return output
    if math.isfinite(output.detach().sum(dtype=torch.promote_types(output.dtype, torch.float32)).item()):
        return output
    positions = torch.arange(length)

    def until(stop: Tensor) -> Tensor:
        """Output where each row (B,) has zeros from ``stop`` on."""
        seen = positions < stop[:, None]
        blank = []
        for x in inputs:
            past = seen.new_ones(batch, x.shape[2] - length)
            here = torch.cat((past, seen), dim=1)[:, None].unflatten(-1, (-1, *[1] * (x.dim() - 3)))
            blank.append(_laid_out_like(x, torch.where(here, x, 0.0)))
        return attend(*blank)

    def spoils(stop: Tensor) -> Tensor:
        """(B,) whether an output before ``stop`` is NaN or infinite."""
        counts = positions < stop[:, None] if mask is None else (positions < stop[:, None]) & mask
        return (~until(stop).isfinite().all(dim=-1).all(dim=1) & counts).any(dim=-1)

    with torch.no_grad():
        low, high = torch.zeros(batch, dtype=torch.int64), torch.full((batch,), length)  # how many positions are fine: at least, at most
        middle = torch.ones_like(low)  # all of a model that has diverged is bad from the first position on
        while (low < high).any():
            bad = spoils(middle)
            low, high = torch.where(bad, low, torch.maximum(low, middle)), torch.where(bad, torch.minimum(high, middle - 1), high)
            middle = torch.where(low < high, (low + high + 1) // 2, low)
    if not ((low > 0) & (low < length)).any():
        return output
    return _laid_out_like(output, torch.where((positions < low[:, None])[:, None, :, None], until(low), output))


def _laid_out_like(x: Tensor, result: Tensor) -> Tensor:
    """``result`` with the strides of ``x``: products round by how their factors lie in memory."""
    if any(stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)):
        return result
    return x.new_empty_strided(x.shape, x.stride()).copy_(result)
