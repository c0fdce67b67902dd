"""Running softmax means in float32 on a CPU: the C kernels of `native_running_operators.py`, with their backward.

Kept are the arguments, and the summary before every 64th position.

Axes: B batch, H heads, N length, K head width.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.backend import are_float32, takes_native
from ...core.layout import dense_channels
from ...kernels.derivatives import differentiable, keep, kept
from ...layers.rotary.op import complex_product, is_rotation_of, turn
from . import native_running_operators as kernel
from .formula import mean_by_formula
from .state import PoolState


def suits(
    backend: str | None, logits: Tensor, values: Tensor, queries: Tensor | None, state: PoolState, turns: Tensor | None = None
) -> bool:
    """Whether the kernels are the faster way, and can be taken: there are several positions, and a head for every other thread, and all is
    of one kind and of shapes that fit (else PyTorch says which does not)."""
    batch, heads, length, width = values.shape
    return (
        length > 1
        and logits.shape == (batch, heads, length)
        and (queries is None or queries.shape == values.shape)
        and (turns is None or is_rotation_of(turns, values))
        and state.weight.shape == state.maximum.shape == (batch, heads, 1)
        and state.total.shape == (batch, heads, width)
        and are_float32(values.device, (logits, values, *state.tensors(), *(() if queries is None else (queries,))))
        and takes_native(backend, values)
        and 2 * batch * heads >= torch.get_num_threads()
    )


def read_mean(
    logits: Tensor, values: Tensor, queries: Tensor | None, state: PoolState, mask: Tensor | None, turns: Tensor | None = None
) -> tuple[Tensor, PoolState]:
    """The running mean of ``values``, times ``queries`` where there are some, as the operator ``running_mean``; and the summary after."""
    output, *after = NativePrefixMean.apply(logits, values, queries, state.weight, state.total, turns, mask, state.maximum)
    return output, PoolState(*after)


def _composition(
    logits: Tensor,
    values: Tensor,
    queries: Tensor | None,
    weight: Tensor,
    total: Tensor,
    turns: Tensor | None,
    mask: Tensor | None,
    maximum: Tensor,
) -> tuple[Tensor, None, Tensor, Tensor]:
    values = values if turns is None else turn(values, turns)
    output, after = mean_by_formula(logits, values, mask, PoolState(maximum, weight, total), None)
    if queries is not None:
        output = queries * output if turns is None else complex_product(turn(queries, turns), output, conjugate=True)
    return output, None, after.weight, after.total


class NativePrefixMean(torch.autograd.Function):
    """(logits, values, queries, weight, total, turns, mask, maximum) -> output (B, H, N, K) and the state after it, as the operator
    ``running_mean``."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        values: Tensor,
        queries: Tensor | None,
        weight: Tensor,
        total: Tensor,
        turns: Tensor | None,
        mask: Tensor | None,
        maximum: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        again = any(ctx.needs_input_grad)
        state = (x.contiguous() for x in (maximum, weight, total))
        output, *after, summaries = kernel.running_mean(*_laid_out(logits, values, queries, turns, mask), *state, again)
        if again:
            keep(ctx, (logits, values, queries, weight, total, turns, mask, maximum), summaries)
        ctx.mark_non_differentiable(after[0])
        ctx.set_materialize_grads(False)
        return output, *after

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_output: Tensor | None, _: None, d_weight: Tensor | None, d_total: Tensor | None) -> tuple[Tensor | None, ...]:
        (logits, values, queries, _, _, turns, mask, _), (summaries,) = kept(ctx)
        given = _laid_out(logits, values, queries, turns, mask)
        batch, heads, _, width = values.shape
        d_output = values.new_zeros(values.shape) if d_output is None else dense_channels(d_output)
        d_weight = values.new_zeros(batch, heads, 1) if d_weight is None else d_weight.contiguous()
        d_total = values.new_zeros(batch, heads, width) if d_total is None else d_total.contiguous()
        found = kernel.running_mean_backward(d_output, d_weight, d_total, *given, summaries)
        return *(x if need else None for x, need in zip(found, ctx.needs_input_grad, strict=False)), None, None, None


def _laid_out(
    logits: Tensor, values: Tensor, queries: Tensor | None, turns: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """As the kernels want them."""
    turns, mask = (None if x is None else x.contiguous() for x in (turns, mask))
    return logits.contiguous(), dense_channels(values), None if queries is None else dense_channels(queries), turns, mask
