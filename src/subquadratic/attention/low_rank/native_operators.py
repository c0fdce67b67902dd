"""Causal slot attention by the C kernels, as operators that PyTorch knows: forward and backward, float32 on a CPU.

Axes: B batch, H heads, N length, R slots, K width of queries and keys, V width of values.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.layout import positions_first
from ...kernels.native.checks import asks, whole
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import CHUNK, INT64, POINTER, ROWS, Rows, fields, operator, positions

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
