"""FAVOR+ in float32 on a CPU: the C kernels of `native_operators.py`, with their backward.

The maths is that of `favor_causal.py` and `favor_summary.py`. Kept are the arguments, the output, a normaliser a position, and of the
causal form the summary before each chunk, or of a long sequence before every few.

Axes: B batch, H heads, N length, K head width, M features, R runs (documents, or rows of the batch).
"""

from typing import Any

import torch
from torch import Tensor

from ...core.layout import dense_channels
from ...core.numerics import LOG2E
from ...core.packed import document_chunks
from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.native.operators import CHUNK
from . import native_operators as kernel
from .composition import causal_by_formula, read_by_formula, summarise_by_formula
from .formula import FeatureState
from .native_step import favor_step


def _composition(*arguments: Any) -> tuple[Tensor, ...]:
    queries, keys, values, projection, live, total, weight, maximum, bounds = arguments
    pieces = document_chunks(bounds, queries.shape[2], queries.shape[2])
    return causal_by_formula(queries, keys, values, projection, live, total, weight, maximum, pieces, CHUNK)


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
        again, given = any(ctx.needs_input_grad), (queries, keys, values, projection, live, total, weight, maximum, bounds)
        output, total, weight, maximum, *made = kernel.favor_causal(
            *_laid_out(queries, keys, values), projection, None if live is None else live.contiguous(), total, weight, maximum,
            bounds or [], again,
        )  # fmt: skip
        if again:
            keep(ctx, given, output, maximum, *made)
        ctx.mark_non_differentiable(maximum)
        ctx.set_materialize_grads(False)
        return output, total, weight, maximum

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_output: Tensor | None, d_total: Tensor | None, d_weight: Tensor | None, _: Any) -> tuple[Any, ...]:
        (queries, keys, values, projection, live, *state, _, bounds), (output, maximum, *made) = kept(ctx)
        live = None if live is None else live.contiguous()
        d_output = torch.zeros_like(output) if d_output is None else dense_channels(d_output)
        d_total, d_weight = (
            torch.zeros_like(before) if given is None else given for before, given in zip(state, (d_total, d_weight), strict=True)
        )
        d_queries, d_keys, d_values, d_total, d_weight = kernel.favor_causal_backward(
            d_output, d_total, d_weight, *_laid_out(queries, keys, values), projection, live, output, maximum, bounds or [], *made
        )
        return d_queries, d_keys, d_values, None, None, d_total, d_weight, None, None


def _laid_out(*tensors: Tensor) -> list[Tensor]:
    """As the kernels want them."""
    return [dense_channels(x) for x in tensors]


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
        total, weight, maximum = kernel.favor_summarise(
            *_laid_out(keys, values), projection, None if live is None else live.contiguous()
        )
        keep(ctx, (keys, values, projection, live), maximum)
        natural = maximum / LOG2E
        ctx.mark_non_differentiable(natural)
        ctx.set_materialize_grads(False)
        return total, weight, natural

    @staticmethod
    @differentiable(summarise_by_formula)
    def backward(ctx: Any, d_total: Tensor | None, d_weight: Tensor | None, _: Any) -> tuple[Any, ...]:
        (keys, values, projection, live), (maximum,) = kept(ctx)
        keys, values, live = *_laid_out(keys, values), None if live is None else live.contiguous()
        d_total = maximum.new_zeros(*maximum.shape, values.shape[3]) if d_total is None else d_total
        d_weight = torch.zeros_like(maximum) if d_weight is None else d_weight
        return *kernel.favor_summarise_backward(d_total, d_weight, keys, values, projection, live, maximum), None, None


class NativeRead(torch.autograd.Function):
    """(queries, projection, total, weight, maximum) -> output (B, H, N, K), as ``Read`` of `favor_summary.py`."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, maximum: Tensor) -> Tensor:
        summary = NativeRead._summary(total, weight, maximum)
        output, normaliser = kernel.favor_read(dense_channels(queries), projection, *summary)
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
        d_queries, d_total, d_weight = kernel.favor_read_backward(*given)
        return d_queries, None, d_total, d_weight, None
