"""Attention within a window by the C kernels of exact attention, which go through the keys that a chunk of queries sees: float32 on a CPU.

Axes: B batch, H heads, N length, K head width, V width of values, W window.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.layout import dense_channels
from ...core.padding import pack_left
from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.native.checks import asks
from ...kernels.native.operators import operator, positions
from .native import attend_backward, attend_forward, gradients_like, output_like
from .window_formula import pack_heads, unpack_heads, windows_by_formula

FARTHEST = 1 << 22  # keys of a window are counted from its chunk in float32
GIVEN: dict[str, Any] = dict(queries="B H N K, rows", keys="B H N K, rows", values="B H N V, rows", lengths="B, int64")
FITS = {
    "N > 0 and K > 0": "there must be a position, and a channel, got {N} and {K}",
    f"0 < window <= {FARTHEST}": f"a window has 1 to {FARTHEST:,} positions, got {{window}}",
}


def native_windows(queries: Tensor, keys: Tensor, values: Tensor, window: int, causal: bool, sliding: bool, mask: Tensor | None) -> Tensor:
    """As :func:`~subquadratic.attention.softmax.window.window_attention`, for what ``suits``."""
    if mask is None:
        return NativeWindowAttention.apply(queries, keys, values, window, causal, sliding, None)
    order, packed = pack_left(mask)
    rows = (pack_heads(tensor, order, packed) for tensor in (queries, keys, values))
    output = NativeWindowAttention.apply(*rows, window, causal, sliding, packed.sum(dim=1))
    return unpack_heads(output.masked_fill(~packed[:, None, :, None], 0.0), order)


def suits(queries: Tensor, keys: Tensor, values: Tensor, window: int) -> bool:
    """Whether the kernels take these."""
    return (
        queries.dtype == keys.dtype == values.dtype
        and queries.shape == keys.shape
        and values.shape[:-1] == keys.shape[:-1]
        and queries.dim() == 4
        and queries.numel() > 0
        and values.numel() > 0
        and window <= FARTHEST
    )


def _pairs(queries: Tensor, window: int, causal: bool, sliding: bool) -> int:
    seen = window * (1 if sliding else 2) if causal else (2 * window if sliding else 3 * window)
    return positions(queries) * min(seen, queries.shape[2])


def _work_of_window_attention(queries: Tensor, keys: Tensor, values: Tensor, window: int, causal: bool, sliding: bool, *_: Any) -> int:
    return _pairs(queries, window, causal, sliding) * (keys.shape[3] + values.shape[3])


@operator(work=_work_of_window_attention, fake=output_like, check=asks(**GIVEN, require=FITS))
def window_attention(
    queries: Tensor, keys: Tensor, values: Tensor, window: int, causal: bool, sliding: bool, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention within W of (B, H, N, K), (B, H, N, K), (B, H, N, V), and the logarithm to base 2 of its normaliser (B, H, N).

    ``lengths`` (B,): how many positions of a row are real; the others, behind these, are seen by themselves alone.
    """
    return attend_forward(queries, keys, values, window=window, causal=causal, sliding=sliding, lengths=lengths)


def _work_of_window_attention_backward(
    d_output: Tensor, queries: Tensor, keys: Tensor, values: Tensor, window: int, causal: bool, sliding: bool, *_: Any
) -> int:
    return _pairs(queries, window, causal, sliding) * (3 * keys.shape[3] + 2 * values.shape[3])


@operator(
    work=_work_of_window_attention_backward,
    fake=gradients_like,
    check=asks(**GIVEN, d_output="B H N V, rows", output="B H N V, rows", normaliser="B H N", require=FITS),
)
def window_attention_backward(
    d_output: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int,
    causal: bool,
    sliding: bool,
    lengths: Tensor | None,
    output: Tensor,
    normaliser: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    which = dict(window=window, causal=causal, sliding=sliding, lengths=lengths)
    return attend_backward(d_output, queries, keys, values, output, normaliser, **which)


def _composition(
    queries: Tensor, keys: Tensor, values: Tensor, window: int, causal: bool, sliding: bool, lengths: Tensor | None
) -> Tensor:
    mask = None if lengths is None else torch.arange(queries.shape[2]) < lengths[:, None]
    return windows_by_formula(queries, keys, values, window, causal, sliding, mask, 0.0)


class NativeWindowAttention(torch.autograd.Function):
    """(queries, keys, values, window, causal, sliding, lengths) -> output (B, H, N, V)."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, window: int, causal: bool, sliding: bool, lengths: Tensor | None
    ) -> Tensor:
        rows = (dense_channels(x) for x in (queries, keys, values))
        output, normaliser = window_attention(*rows, window, causal, sliding, lengths)
        keep(ctx, (queries, keys, values, window, causal, sliding, lengths), output, normaliser)
        return output

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        (*given, window, causal, sliding, lengths), (output, normaliser) = kept(ctx)
        rows = (dense_channels(x) for x in (d_output, *given))
        return *window_attention_backward(*rows, window, causal, sliding, lengths, output, normaliser), None, None, None, None
