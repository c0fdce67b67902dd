"""Exact softmax attention by the C kernels: float32 on a CPU, with its backward.

Kept are the arguments, the output, and a number a query.

Axes: B batch, H heads, N length (queries), S length (keys), K head width, V width of values.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.layout import dense_channels, positions_first
from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.native.checks import asks
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, ROWS, Rows, fields, operator, positions, shares_of
from .formula import attention_by_formula

FEWEST_QUERIES = 16  # from which the kernels, which take them side by side, are worth calling
GIVEN: dict[str, Any] = dict(queries="B H N K, rows", keys="B H S K, rows", values="B H S V, rows")
FITS = {
    "S > 0 and K > 0": "there must be a key, and a channel, got {S} and {K}",
    "not causal or S >= N": "causal: there must be a key for each of the {N} queries, got {S}",
}


class Attention(Arguments, layout="softmax"):
    """``attention`` of softmax.c."""

    _fields_ = [
        *((name, Rows) for name in ROWS),
        ("normaliser", POINTER), ("sums", POINTER), ("lengths", POINTER),
        *((name, INT64) for name in ("batch", "heads", "length", "count", "width", "value_width")),
        *((name, INT64) for name in ("causal", "window", "sliding", "shares", "threads")),
    ]  # fmt: skip


def _call(name: str, queries: Tensor, keys: Tensor, values: Tensor, **more: Any) -> None:
    batch, heads, length, width = queries.shape
    sizes = dict(batch=batch, heads=heads, length=length, count=keys.shape[2], width=width, value_width=values.shape[3])
    call(name, Attention(**fields(queries=queries, keys=keys, values=values, **sizes, **more)))


def output_like(queries: Tensor, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Unfilled: the output, and a number a query."""
    batch, heads, length = queries.shape[:3]
    return queries.new_empty(batch, length, heads, values.shape[3]).transpose(1, 2), queries.new_empty(batch, heads, length)


def attend_forward(queries: Tensor, keys: Tensor, values: Tensor, **which: Any) -> tuple[Tensor, Tensor]:
    """The output and the normaliser. ``which``: fields that say which keys a query sees."""
    output, normaliser = output_like(queries, keys, values)
    _call("softmax_attention_forward", queries, keys, values, output=output, normaliser=normaliser, **which)
    return output, normaliser


def gradients_like(d_output: Tensor, queries: Tensor, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Unfilled: gradients of queries, keys and values."""
    return positions_first(queries), positions_first(keys), positions_first(values)


def attend_backward(
    d_output: Tensor, queries: Tensor, keys: Tensor, values: Tensor, output: Tensor, normaliser: Tensor, **which: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, from what :func:`attend_forward` gave."""
    d_queries, d_keys, d_values = gradients_like(d_output, queries, keys, values)
    heads = queries.shape[0] * queries.shape[1]
    shares = shares_of(heads, queries.shape[2])
    widths = 32 + keys.shape[3] + values.shape[3]  # with what fills up vectors
    _call(
        "softmax_attention_backward", queries, keys, values, output=output, normaliser=normaliser,
        d_output=d_output, d_queries=d_queries, d_keys=d_keys, d_values=d_values,
        shares=shares, sums=queries.new_empty(heads * shares * keys.shape[2] * widths), **which,
    )  # fmt: skip
    return d_queries, d_keys, d_values


def _work_of_softmax_attention(queries: Tensor, keys: Tensor, values: Tensor, *_: Any) -> int:
    return positions(queries) * keys.shape[2] * (keys.shape[3] + values.shape[3])


@operator(work=_work_of_softmax_attention, fake=output_like, check=asks(**GIVEN, require=FITS))
def softmax_attention(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(K)) v of (B, H, N, K), (B, H, S, K), (B, H, S, V), and the logarithm to base 2 of its normaliser (B, H, N).

    ``causal``: query i sees keys up to S - N + i; S is at least N then.
    """
    return attend_forward(queries, keys, values, causal=causal)


def _work_of_softmax_attention_backward(d_output: Tensor, queries: Tensor, keys: Tensor, values: Tensor, *_: Any) -> int:
    return positions(queries) * keys.shape[2] * (3 * keys.shape[3] + 2 * values.shape[3])


@operator(
    work=_work_of_softmax_attention_backward,
    fake=gradients_like,
    check=asks(**GIVEN, d_output="B H N V, rows", output="B H N V, rows", normaliser="B H N", require=FITS),
)
def softmax_attention_backward(
    d_output: Tensor, queries: Tensor, keys: Tensor, values: Tensor, causal: bool, output: Tensor, normaliser: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    return attend_backward(d_output, queries, keys, values, output, normaliser, causal=causal)


def suits(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> bool:
    """Whether the kernels are the faster way for what they read: heads of one kind, of shapes that fit (else PyTorch says which does
    not)."""
    return (
        queries.shape[-2] >= FEWEST_QUERIES
        and (not causal or keys.shape[-2] >= queries.shape[-2])
        and queries.dtype == keys.dtype == values.dtype
        and keys.shape[:2] == values.shape[:2] == queries.shape[:2]
        and keys.shape[-1] == queries.shape[-1]
        and keys.shape[:-1] == values.shape[:-1]
        and queries.dim() == 4
        and queries.numel() > 0
        and values.numel() > 0
    )


def _composition(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
    return attention_by_formula(queries, keys, values, None, causal)


class NativeSoftmaxAttention(torch.autograd.Function):
    """(queries, keys, values, causal) -> output (B, H, N, K); causal: query i sees keys up to S - N + i, and S is at least N."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
        output, normaliser = softmax_attention(dense_channels(queries), dense_channels(keys), dense_channels(values), causal)
        keep(ctx, (queries, keys, values, causal), output, normaliser)
        return output

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        (*given, causal), (output, normaliser) = kept(ctx)
        rows = (dense_channels(x) for x in (d_output, *given))
        return *softmax_attention_backward(*rows, causal, output, normaliser), None
