"""FAVOR+ in float32 on a CPU: the C kernels of `kernels/native/favor.py`, with their backward.

The maths is that of `favor_causal.py` and `favor_summary.py`. Kept are the arguments, the output, a normaliser a position, and of the
causal form the summary before each chunk, or of a long sequence before every few.

Axes: B batch, H heads, N length, K head width, M features, R runs (documents, or rows of the batch).
"""

from typing import Any

import torch
from torch import Tensor

from ..kernels.native import favor as kernel
from ..kernels.native.favor_step import favor_step
from ..kernels.native.tensors import LOG2E
from .linear_attention import FeatureState
from .once import once_differentiable
from .softmax_attention import dense_channels


class NativeCausalFavor(torch.autograd.Function):
    """(queries, keys, values, projection, live, total, weight, maximum, bounds) -> (output, total, weight, maximum).

    Args of ``apply``:
        queries, keys, values: (B, H, N, K); keys and values may hold anything at padding.
        projection: (M, K) times K^(-1/4).
        live: (B, N) bool, real tokens; None: all.
        total, weight, maximum: the state before, (R, H, M, K), (R, H, M), (R, H, 1).
        bounds: where packed documents begin and end; None: R = B.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        projection: Tensor,
        live: Tensor | None,
        total: Tensor,
        weight: Tensor,
        maximum: Tensor,
        bounds: list[int] | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        keep = any(ctx.needs_input_grad)
        queries, keys, values = (dense_channels(x) for x in (queries, keys, values))
        live, ctx.bounds = None if live is None else live.contiguous(), bounds or []
        output, total, weight, maximum, *kept = kernel.favor_causal(
            queries, keys, values, projection, live, total, weight, maximum, ctx.bounds, keep
        )
        if keep:
            ctx.save_for_backward(queries, keys, values, projection, live, output, maximum, *kept)
            ctx.state = total.shape, weight.shape
        ctx.mark_non_differentiable(maximum)
        ctx.set_materialize_grads(False)
        return output, total, weight, maximum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor | None, d_total: Tensor | None, d_weight: Tensor | None, _: Any) -> tuple[Any, ...]:
        queries, keys, values, projection, live, output, maximum, *kept = ctx.saved_tensors
        d_output = torch.zeros_like(output) if d_output is None else dense_channels(d_output)
        d_total, d_weight = (
            values.new_zeros(shape) if given is None else given for shape, given in zip(ctx.state, (d_total, d_weight), strict=True)
        )
        d_queries, d_keys, d_values, d_total, d_weight = kernel.favor_causal_backward(
            d_output, d_total, d_weight, queries, keys, values, projection, live, output, maximum, ctx.bounds, *kept
        )
        return d_queries, d_keys, d_values, None, None, d_total, d_weight, None, None


def step(
    queries: Tensor, keys: Tensor, values: Tensor, turns: Tensor | None, projection: Tensor, mask: Tensor | None, state: FeatureState
) -> tuple[Tensor, FeatureState]:
    """One token (B, H, 1, K), without gradients, its queries and keys turned first: the output and the state after."""
    projection = projection.to(values.dtype)
    before = state.total, state.weight, state.maximum, state.values, state.count
    given = queries, keys, values, turns, mask, projection, *before
    output, *after = favor_step(*[None if x is None else x.contiguous() for x in given])
    return output, FeatureState(*after)


class NativeSummarise(torch.autograd.Function):
    """(keys, values, projection, live) -> (total, weight, maximum), as ``Summarise`` of `favor_summary.py`."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, values: Tensor, projection: Tensor, live: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        keys, values = dense_channels(keys), dense_channels(values)
        live = None if live is None else live.contiguous()
        total, weight, maximum = kernel.favor_summarise(keys, values, projection, live)
        ctx.save_for_backward(keys, values, projection, live, maximum)
        natural = maximum / LOG2E
        ctx.mark_non_differentiable(natural)
        ctx.set_materialize_grads(False)
        return total, weight, natural

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor | None, d_weight: Tensor | None, _: Any) -> tuple[Any, ...]:
        keys, values, projection, live, maximum = ctx.saved_tensors
        d_total = maximum.new_zeros(*maximum.shape, values.shape[3]) if d_total is None else d_total
        d_weight = torch.zeros_like(maximum) if d_weight is None else d_weight
        return *kernel.favor_summarise_backward(d_total, d_weight, keys, values, projection, live, maximum), None, None


class NativeRead(torch.autograd.Function):
    """(queries, projection, total, weight, maximum) -> output (B, H, N, K), as ``Read`` of `favor_summary.py`."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, maximum: Tensor) -> Tensor:
        queries, total, weight = dense_channels(queries), total.contiguous(), weight.contiguous()
        maximum = maximum.expand_as(weight) * LOG2E
        output, normaliser = kernel.favor_read(queries, projection, total, weight, maximum)
        ctx.save_for_backward(queries, projection, total, weight, maximum, output, normaliser)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Any, ...]:
        d_queries, d_total, d_weight = kernel.favor_read_backward(dense_channels(d_output), *ctx.saved_tensors)
        return d_queries, None, d_total, d_weight, None
