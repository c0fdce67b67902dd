"""Causal slots in float32 on a CPU: the C kernels of `kernels/native/slots.py`, with their backward.

Kept are the arguments, and the slots before every 512th position.

Axes: B batch, H heads, N length, R slots, K head width.
"""

from typing import Any

import torch
from torch import Tensor

from ..kernels.native import slots as kernel
from .backend import are_float32, takes_native
from .once import once_differentiable
from .softmax_attention import dense_channels

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


class NativeSlots(torch.autograd.Function):
    """(queries, keys, values, E, F, key slots, value slots) -> output (B, H, N, K) and the slots after it; E and F (N, R) or (B, N, R)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = (dense_channels(x) for x in inputs[:3])
        key_weights, value_weights = (x.contiguous().view(-1, *x.shape[-2:]) for x in inputs[3:5])
        keep = any(ctx.needs_input_grad)
        arguments = (queries, keys, values, key_weights, value_weights)
        output, *after, kept = kernel.slot_attention(*arguments, inputs[5].contiguous(), inputs[6].contiguous(), keep)
        if keep:
            ctx.save_for_backward(*arguments, kept)
        ctx.set_materialize_grads(False)
        ctx.shapes = [x.shape for x in inputs]
        return output, *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor | None, *d_after: Tensor | None) -> tuple[Tensor | None, ...]:
        queries, keys, values, key_weights, value_weights, kept = ctx.saved_tensors
        d_output = values.new_zeros(values.shape) if d_output is None else dense_channels(d_output)
        given = [queries.new_zeros(shape) if x is None else x.contiguous() for x, shape in zip(d_after, ctx.shapes[5:], strict=True)]
        found = kernel.slot_attention_backward(d_output, *given, queries, keys, values, key_weights, value_weights, kept)
        return tuple(x.view(shape) if i in (3, 4) else x for i, (x, shape) in enumerate(zip(found, ctx.shapes, strict=True)))
