"""Causal slots by the C kernels: float32 on a CPU, with their backward.

Kept are the arguments, and the slots before every 512th position.

Axes: B batch, H heads, N length, R slots, K width of queries and keys, V width of values.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.backend import are_float32
from ...core.layout import dense_channels, positions_first
from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.native.checks import asks, whole
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import CHUNK, INT64, POINTER, ROWS, Rows, fields, operator, positions
from .formula import slots_by_formula

FEWEST_POSITIONS = 16  # below, filling up a chunk costs what the kernel saves
GIVEN: dict[str, Any] = dict(
    queries="B H N K, rows", keys="B H N K, rows", values="B H N V, rows", key_weights="E N R", value_weights="E N R"
)
FITS = {"E in (1, B)": "weights of slots must be for one row or for all {B}, got {E}"}
STRETCH = 8  # chunks, as in slots.c


class Slots(Arguments, layout="slots"):
    """``attention`` of slots.c."""

    _fields_ = [
        *((name, Rows) for name in ROWS),
        *((name, POINTER) for name in (
            "key_weights", "value_weights", "d_key_weights", "d_value_weights", "key_slots", "value_slots", "state", "kept", "sums",
        )),
        *((name, INT64) for name in ("batch", "heads", "length", "slots", "width", "value_width", "each", "threads")),
    ]  # fmt: skip


def _state_width(keys: Tensor, values: Tensor) -> int:
    return whole(keys.shape[3]) + whole(values.shape[3])


def _call(name: str, queries: Tensor, keys: Tensor, values: Tensor, key_weights: Tensor, value_weights: Tensor, **more: Any) -> None:
    (batch, heads, length, width), slots = queries.shape, key_weights.shape[-1]
    state = queries.new_empty(batch * heads, slots, _state_width(keys, values))
    given = fields(
        queries=queries, keys=keys, values=values, key_weights=key_weights, value_weights=value_weights, state=state, batch=batch,
        heads=heads, length=length, slots=slots, width=width, value_width=values.shape[3], each=len(key_weights) > 1, **more,
    )  # fmt: skip
    call(name, Slots(**given))


def _attended_like(
    queries: Tensor, keys: Tensor, values: Tensor, key_weights: Tensor, value_weights: Tensor, key_slots: Tensor, value_slots: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    batch, heads, length, _ = queries.shape
    stretches = -(-length // (STRETCH * CHUNK)) if keep else 0
    kept = queries.new_empty(stretches, batch * heads, key_weights.shape[-1], _state_width(keys, values))
    return positions_first(values), torch.empty_like(key_slots), torch.empty_like(value_slots), kept


def _work_of_slot_attention(queries: Tensor, keys: Tensor, values: Tensor, key_weights: Tensor, *_: Any) -> int:
    slots, width, values_width = key_weights.shape[-1], queries.shape[3], values.shape[3]
    return positions(queries) * (slots * (2 * width + 2 * values_width + 2 * CHUNK) + CHUNK * (width + values_width))


@operator(
    work=_work_of_slot_attention,
    fake=_attended_like, check=asks(**GIVEN, key_slots="B H R K, copied", value_slots="B H R V, copied", require=FITS)
)
def slot_attention(
    queries: Tensor, keys: Tensor, values: Tensor, key_weights: Tensor, value_weights: Tensor, key_slots: Tensor, value_slots: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Output (B, H, N, V), the slots after the last position, and what backward needs in addition to the arguments if ``keep``.

    Of (B, H, N, K) twice, (B, H, N, V), E and F (B or 1, N, R), and the slots before, (B, H, R, K) and (B, H, R, V).
    """
    arguments = (queries, keys, values, key_weights, value_weights)
    output, _, _, kept = _attended_like(*arguments, key_slots, value_slots, keep)
    key_slots, value_slots = (x.clone(memory_format=torch.contiguous_format) for x in (key_slots, value_slots))
    _call("slots_forward", *arguments, output=output, key_slots=key_slots, value_slots=value_slots, kept=kept if keep else None)
    return output, key_slots, value_slots, kept


def _gradients_like(
    d_output: Tensor, d_key_slots: Tensor, d_value_slots: Tensor, queries: Tensor, keys: Tensor, values: Tensor, key_weights: Tensor,
    value_weights: Tensor, kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    inputs = (positions_first(x) for x in (queries, keys, values))
    others = (torch.empty_like(x) for x in (key_weights, value_weights, d_key_slots, d_value_slots))
    return *inputs, *others  # type: ignore[return-value]


def _work_of_slot_attention_backward(
    d_output: Tensor, d_keys: Tensor, d_values: Tensor, queries: Tensor, keys: Tensor, values: Tensor, key_weights: Tensor, *_: Any
) -> int:
    slots, width, values_width = key_weights.shape[-1], queries.shape[3], values.shape[3]
    return positions(queries) * (slots * (6 * (width + values_width) + 6 * CHUNK) + CHUNK * (3 * width + 2 * values_width))


@operator(
    work=_work_of_slot_attention_backward,
    fake=_gradients_like,
    check=asks(
        **GIVEN, d_output="B H N V, rows", d_key_slots="B H R K", d_value_slots="B H R V", kept="G B*H R W",
        sizes={"G": "-(-N // 512)", "W": "whole(K) + whole(V)"}, require=FITS,
    ),
)  # fmt: skip
def slot_attention_backward(
    d_output: Tensor, d_key_slots: Tensor, d_value_slots: Tensor, queries: Tensor, keys: Tensor, values: Tensor, key_weights: Tensor,
    value_weights: Tensor, kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of queries, keys, values, E, F, and the slots before, from that of the output and of the slots after."""
    arguments = (queries, keys, values, key_weights, value_weights)
    found = _gradients_like(d_output, d_key_slots, d_value_slots, *arguments, kept)
    if not len(queries):  # no thread would write the gradients of weights that all rows share
        return tuple(torch.zeros_like(x) for x in found)  # type: ignore[return-value]
    d_queries, d_keys, d_values, d_key_weights, d_value_weights, *_ = found
    d_key_slots, d_value_slots = d_key_slots.clone(), d_value_slots.clone()
    sums = queries.new_empty(torch.get_num_threads() * 2 * STRETCH * CHUNK * whole(key_weights.shape[-1]))
    _call(
        "slots_backward", *arguments, kept=kept, sums=sums, d_output=d_output, d_queries=d_queries, d_keys=d_keys, d_values=d_values,
        d_key_weights=d_key_weights, d_value_weights=d_value_weights, key_slots=d_key_slots, value_slots=d_value_slots,
    )  # fmt: skip
    return d_queries, d_keys, d_values, d_key_weights, d_value_weights, d_key_slots, d_value_slots


def suits(inputs: tuple[Tensor, ...], key_slots: Tensor, value_slots: Tensor) -> bool:
    """Whether the kernels are the faster way: there is a head for every other thread, each has keys of its own, and all
    is of one kind and of shapes that fit (else PyTorch says which does not)."""
    queries, keys, values, key_weights, _ = inputs
    batch, heads, length, width = queries.shape
    slots = (batch, heads, key_weights.shape[-1])
    return (
        length >= FEWEST_POSITIONS
        and keys.shape == queries.shape
        and key_slots.shape == (*slots, width)
        and value_slots.shape == (*slots, values.shape[-1])
        and are_float32(queries.device, (*inputs, key_slots, value_slots))
        and 2 * batch * heads >= torch.get_num_threads()
    )


def _composition(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return slots_by_formula(inputs[:5], inputs[5], inputs[6], None)


class NativeSlots(torch.autograd.Function):
    """(queries, keys, values, E, F, key slots, value slots) -> output (B, H, N, K) and the slots after it; E and F (N, R) or (B, N, R)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        differentiated = any(ctx.needs_input_grad)
        output, *after, slots = slot_attention(*_laid_out(inputs), inputs[5].contiguous(), inputs[6].contiguous(), differentiated)
        if differentiated:
            keep(ctx, inputs, slots)
        ctx.set_materialize_grads(False)
        return output, *after

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_output: Tensor | None, *d_after: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, (slots,) = kept(ctx)
        d_output = inputs[2].new_zeros(inputs[2].shape) if d_output is None else dense_channels(d_output)
        given = [start.new_zeros(start.shape) if x is None else x.contiguous() for x, start in zip(d_after, inputs[5:], strict=True)]
        found = slot_attention_backward(d_output, *given, *_laid_out(inputs), slots)
        return tuple(x.view(y.shape) if i in (3, 4) else x for i, (x, y) in enumerate(zip(found, inputs, strict=True)))


def _laid_out(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Queries, keys, values, E and F as the kernels want them."""
    return [*(dense_channels(x) for x in inputs[:3]), *(x.contiguous().view(-1, *x.shape[-2:]) for x in inputs[3:5])]
