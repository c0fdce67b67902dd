"""Causal slots in float32 on a CPU: the C kernels of `native_operators.py`, with their backward.

Kept are the arguments, and the slots before every 512th position.

Axes: B batch, H heads, N length, R slots, K head width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.backend import are_float32, takes_native
from ...core.layout import dense_channels
from ...kernels.derivatives import differentiable, keep, kept
from . import native_operators as kernel
from .formula import slots_by_formula

FEWEST = 16  # positions below which filling up a chunk costs what the kernel saves


def suits(backend: str | None, inputs: tuple[Tensor, ...], key_slots: Tensor, value_slots: Tensor) -> bool:
    """Whether the kernels are the faster way, and can be taken: there is a head for every other thread, each has keys of its own, and all
    is of one kind and of shapes that fit (else PyTorch says which does not)."""
    queries, keys, values, key_weights, _ = inputs
    batch, heads, length, width = queries.shape
    slots = (batch, heads, key_weights.shape[-1])
    return (
        length >= FEWEST
        and keys.shape == queries.shape
        and key_slots.shape == (*slots, width)
        and value_slots.shape == (*slots, values.shape[-1])
        and are_float32(queries.device, (*inputs, key_slots, value_slots))
        and 2 * batch * heads >= torch.get_num_threads()
        and takes_native(backend, queries)
    )


def _composition(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return slots_by_formula(inputs[:5], inputs[5], inputs[6], None)


class NativeSlots(torch.autograd.Function):
    """(queries, keys, values, E, F, key slots, value slots) -> output (B, H, N, K) and the slots after it; E and F (N, R) or (B, N, R)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        again = any(ctx.needs_input_grad)
        output, *after, slots = kernel.slot_attention(*_laid_out(inputs), inputs[5].contiguous(), inputs[6].contiguous(), again)
        if again:
            keep(ctx, inputs, slots)
        ctx.set_materialize_grads(False)
        return output, *after

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_output: Tensor | None, *d_after: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, (slots,) = kept(ctx)
        d_output = inputs[2].new_zeros(inputs[2].shape) if d_output is None else dense_channels(d_output)
        given = [start.new_zeros(start.shape) if x is None else x.contiguous() for x, start in zip(d_after, inputs[5:], strict=True)]
        found = kernel.slot_attention_backward(d_output, *given, *_laid_out(inputs), slots)
        return tuple(x.view(y.shape) if i in (3, 4) else x for i, (x, y) in enumerate(zip(found, inputs, strict=True)))


def _laid_out(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Queries, keys, values, E and F as the kernels want them."""
    return [*(dense_channels(x) for x in inputs[:3]), *(x.contiguous().view(-1, *x.shape[-2:]) for x in inputs[3:5])]
