"""FAVOR+ as a summary and what queries read of it, by C kernels (summary.c): as operators that PyTorch knows, with their backward, float32
on a CPU.

The maths is that of `summary.py`. Kept for backward are the arguments, and of a reading the output and a normaliser a position.

Axes: B batch, H heads, N length, K head width, V width of values, M features.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.layout import dense_channels, positions_first
from ...core.numerics import LOG2E
from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.native.checks import asks
from ...kernels.native.operators import operator, positions, shares_of
from .formula import zero_keys
from .native import call_with, laid_out, room_for_sums
from .summary import read_by_formula, summarise_by_formula


def _of_batch(x: Tensor, value_width: int, features: int) -> dict[str, Any]:
    """What the kernels of the bidirectional form are told of their (B, H, N, K)."""
    batch, heads, length, width = x.shape
    shares = shares_of(batch * heads, length)
    sums = room_for_sums(x, batch * heads * shares, features, value_width) if shares > 1 else None
    sizes = dict(run_count=batch, heads=heads, length=length, width=width, value_width=value_width)
    return sizes | dict(live_step=length, shares=shares, sums=sums)


def _summary_like(keys: Tensor, values: Tensor, projection: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*values.shape[:2], projection.shape[0])
    return values.new_empty(*shape, values.shape[3]), values.new_empty(shape), values.new_empty(shape)


def _work_of_favor_summarise(keys: Tensor, values: Tensor, projection: Tensor, *_: Any) -> int:
    return positions(keys) * len(projection) * (keys.shape[3] + values.shape[3])


@operator(
    work=_work_of_favor_summarise,
    fake=_summary_like,
    check=asks(keys="B H N K, rows", values="B H N V, rows", projection="M K, copied", mask="B N, bool"),
)
def favor_summarise(keys: Tensor, values: Tensor, projection: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The summary (B, H, M, V), (B, H, M) of keys and values, and each feature's largest exponent (B, H, M), to base 2."""
    total, weight, maximum = _summary_like(keys, values, projection)
    given = _of_batch(keys, values.shape[3], len(projection)) | dict(keys=keys, values=values, live=mask)
    call_with("favor_summarise", projection, **given, total=total, weight=weight, maximum=maximum)
    return total, weight, maximum


def _favor_summarise_backward_like(d_total: Tensor, d_weight: Tensor, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return positions_first(keys), positions_first(values)


def _work_of_favor_summarise_backward(d_total: Tensor, d_weight: Tensor, keys: Tensor, values: Tensor, projection: Tensor, *_: Any) -> int:
    return 2 * _work_of_favor_summarise(keys, values, projection)


@operator(
    work=_work_of_favor_summarise_backward,
    fake=_favor_summarise_backward_like,
    check=asks(
        keys="B H N K, rows", values="B H N V, rows", projection="M K, copied", mask="B N, bool", maximum="B H M",
        d_total="B H M V, copied", d_weight="B H M, copied",
    ),
)  # fmt: skip
def favor_summarise_backward(
    d_total: Tensor, d_weight: Tensor, keys: Tensor, values: Tensor, projection: Tensor, mask: Tensor | None, maximum: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of keys and values from those of their summary."""
    d_keys, d_values = positions_first(keys), positions_first(values)
    given = _of_batch(keys, values.shape[3], len(projection)) | dict(keys=keys, values=values, live=mask, maximum=maximum)
    d_total, d_weight = d_total.contiguous(), d_weight.contiguous()
    call_with("favor_summarise_backward", projection, **given, d_total=d_total, d_weight=d_weight, d_keys=d_keys, d_values=d_values)
    return d_keys, d_values


def _read_like(queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
    batch, heads, length, _ = queries.shape
    return queries.new_empty(batch, length, heads, total.shape[3]).transpose(1, 2), queries.new_empty(batch, heads, length)


def _work_of_favor_read(queries: Tensor, projection: Tensor, total: Tensor, *_: Any) -> int:
    return positions(queries) * len(projection) * (queries.shape[3] + total.shape[3])


@operator(
    work=_work_of_favor_read,
    fake=_read_like,
    check=asks(queries="B H N K, rows", projection="M K, copied", total="B H M V", weight="B H M", maximum="B H M"),
)
def favor_read(queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
    """What queries read of a summary as :func:`favor_summarise` gives it, (B, H, N, V), and the normaliser (B, H, N)."""
    output, normaliser = _read_like(queries, projection, total, weight, maximum)
    given = _of_batch(queries, total.shape[3], len(projection)) | dict(queries=queries, output=output, normaliser=normaliser)
    call_with("favor_read", projection, **given, total=total, weight=weight, maximum=maximum)
    return output, normaliser


def _favor_read_backward_like(
    d_output: Tensor, queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return positions_first(queries), torch.empty_like(total), torch.empty_like(weight)


def _work_of_favor_read_backward(d_output: Tensor, queries: Tensor, projection: Tensor, total: Tensor, *_: Any) -> int:
    return 2 * _work_of_favor_read(queries, projection, total)


@operator(
    work=_work_of_favor_read_backward,
    fake=_favor_read_backward_like,
    check=asks(
        queries="B H N K, rows", projection="M K, copied", total="B H M V", weight="B H M", maximum="B H M",
        d_output="B H N V, rows", output="B H N V, rows", normaliser="B H N",
    ),
)  # fmt: skip
def favor_read_backward(
    d_output: Tensor,
    queries: Tensor,
    projection: Tensor,
    total: Tensor,
    weight: Tensor,
    maximum: Tensor,
    output: Tensor,
    normaliser: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries and of the summary that they read."""
    d_queries, d_total, d_weight = positions_first(queries), torch.empty_like(total), torch.empty_like(weight)
    given = _of_batch(queries, total.shape[3], len(projection)) | dict(queries=queries, total=total, weight=weight, maximum=maximum)
    call_with(
        "favor_read_backward", projection, **given, output=output, normaliser=normaliser,
        d_output=d_output, d_queries=d_queries, d_total=d_total, d_weight=d_weight,
    )  # fmt: skip
    return d_queries, d_total, d_weight


def _composition(keys: Tensor, values: Tensor, projection: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return summarise_by_formula(zero_keys(keys, mask), zero_keys(values, mask), projection, mask)


class NativeSummarise(torch.autograd.Function):
    """(keys, values, projection, mask) -> (total, weight, maximum), as ``Summarise`` of `summary.py`; keys and values may hold anything at
    padding."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, values: Tensor, projection: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        total, weight, maximum = favor_summarise(*laid_out(keys, values), projection, None if mask is None else mask.contiguous())
        keep(ctx, (keys, values, projection, mask), maximum)
        natural = maximum / LOG2E
        ctx.mark_non_differentiable(natural)
        ctx.set_materialize_grads(False)
        return total, weight, natural

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_total: Tensor | None, d_weight: Tensor | None, _: Any) -> tuple[Any, ...]:
        (keys, values, projection, mask), (maximum,) = kept(ctx)
        keys, values, mask = *laid_out(keys, values), None if mask is None else mask.contiguous()
        d_total = maximum.new_zeros(*maximum.shape, values.shape[3]) if d_total is None else d_total
        d_weight = torch.zeros_like(maximum) if d_weight is None else d_weight
        return *favor_summarise_backward(d_total, d_weight, keys, values, projection, mask, maximum), None, None


class NativeRead(torch.autograd.Function):
    """(queries, projection, total, weight, maximum) -> output (B, H, N, K), as ``Read`` of `summary.py`."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, maximum: Tensor) -> Tensor:
        summary = NativeRead._summary(total, weight, maximum)
        output, normaliser = favor_read(dense_channels(queries), projection, *summary)
        keep(ctx, (queries, projection, total, weight, maximum), output, normaliser)
        return output

    @staticmethod
    def _summary(total: Tensor, weight: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return total.contiguous(), weight.contiguous(), maximum.expand_as(weight) * LOG2E

    @staticmethod
    @differentiable(read_by_formula)
    def backward(ctx: Any, d_output: Tensor) -> tuple[Any, ...]:
        (queries, projection, *summary), made = kept(ctx)
        given = dense_channels(d_output), dense_channels(queries), projection, *NativeRead._summary(*summary), *made
        d_queries, d_total, d_weight = favor_read_backward(*given)
        return d_queries, None, d_total, d_weight, None
