"""Low-rank attention: softmax attention of every position to R slots, each a weighted sum of the sequence.

Linformer (arXiv 2006.04768), eq. 7, and a causal form: the slots that position i reads hold positions up to i only,

    K_i = sum_{j<=i} E_j (x) k_j,   V_i = sum_{j<=i} F_j (x) v_j,   o_i = softmax(q_i K_i^T / sqrt(K)) V_i

computed chunk by chunk without ever forming K_i: scores = q K^T + tril(q k^T) E, output = p V + tril(p F^T) v.

Axes: B batch, H heads, N length, K head width, R slots, G chunks, C chunk length. Keys and values may have one head for all.
"""

from functools import partial

import torch
from torch import Tensor

from ...core.backend import computed_by
from ...core.causality import keep_out
from ...core.errors import require_positive
from ...core.numerics import exact_dtype, is_narrow_on_cpu, no_autocast
from ...core.packed import document_bounds, state_rows
from ...core.state import State, state
from ...core.tracing import needs_gradient
from .blocks import slots_in_blocks
from .formula import slots_by_formula
from .native import NativeSlots, suits


@state
class SlotState(State):
    """The slots after the tokens seen so far; float32 (float64 for float64 inputs)."""

    keys: Tensor  # (B, H or 1, R, K)
    values: Tensor  # (B, H or 1, R, K)


def empty_slots(
    batch: int,
    heads: int,
    slots: int,
    width: int,
    value_width: int,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> SlotState:
    """Slots of no tokens."""
    keys, values = (torch.zeros(batch, heads, slots, size, device=device, dtype=dtype) for size in (width, value_width))
    return SlotState(keys, values)


def causal_slot_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    key_weights: Tensor,
    value_weights: Tensor,
    state: SlotState | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    dropout: float = 0.0,
    chunk: int = 64,
    backend: str | None = None,
) -> tuple[Tensor, SlotState]:
    """Causal Linformer attention of the next N positions.

    Args:
        queries: (B, H, N, K).
        keys, values: (B, H or 1, N, K), zero for padding.
        key_weights, value_weights: E and F at these positions, (N, R) or (B, N, R).
        state: the slots before; None at the start of a sequence.
        cu_seqlens: (documents + 1,) bounds of documents packed into one row (B = 1); the state then has one row per document.
        dropout: of the attention weights over slots; 0 outside training.
        chunk: positions per C x C matmul. Changes speed, not the result.
        backend: "auto", "torch" or "triton" (:func:`~subquadratic.core.backend.use_backend`); None: as chosen there. Dropout takes "torch".

    Returns:
        (B, H, N, K) in the dtype of ``values``, and the slots after the last position.

    Raises:
        ValueError: if shapes disagree, ``cu_seqlens`` is wrong, or ``chunk`` < 1.
        NotImplementedError: for ``cu_seqlens`` while compiling.

    Cost O(N (R K + C (K + R))) a head. Kept for backward: the inputs and the slots before each block, O(N K + N R K / block); gradients
    reach every tensor. With dropout, in a compiled graph, and where derivatives go beyond a first one in reverse mode, autograd keeps
    O(N (R + C) + N R K / C).
    """
    batch, heads, length, width = queries.shape
    slots = key_weights.shape[-1]
    if key_weights.shape[-2] != length or value_weights.shape != key_weights.shape or key_weights.shape[:-2] not in ((), (1,), (batch,)):
        raise ValueError(
            f"key_weights and value_weights must be (length, slots) = ({length}, R) or with a batch axis before, "
            f"got {tuple(key_weights.shape)} and {tuple(value_weights.shape)}"
        )
    if keys.shape[:3] not in ((batch, heads, length), (batch, 1, length)) or values.shape[:3] != keys.shape[:3]:
        raise ValueError(
            f"keys and values must be (batch, heads or 1, length, .) = ({batch}, {heads} or 1, {length}, .), "
            f"got {tuple(keys.shape)} and {tuple(values.shape)}"
        )
    require_positive(chunk=chunk)
    bounds = document_bounds(cu_seqlens, batch, length, state_rows=None if state is None else state.keys.shape[0])

    exact = exact_dtype(queries, values)
    if state is None:
        documents = state_rows(bounds, batch)
        state = empty_slots(documents, keys.shape[1], slots, width, values.shape[-1], device=queries.device, dtype=exact)
    elif state.keys.dtype != exact:
        state = state.to(dtype=exact)
    dtype = values.dtype
    if is_narrow_on_cpu(values) and length > 1:
        queries, keys, values, key_weights, value_weights = (
            tensor.float() for tensor in (queries, keys, values, key_weights, value_weights)
        )
    with no_autocast(values):
        inputs, before = (queries, keys, values, key_weights, value_weights), (state.keys, state.values)
        computer = computed_by(
            backend,
            values,
            triton=dropout == 0.0,
            fits_triton=max(width, values.shape[-1]) <= 256,
            native=dropout == 0.0 and bounds is None and partial(suits, inputs, *before),
        )
        if computer == "triton":
            from .triton import causal_slot_attention as by_kernel

            q, k, v, e, f = (tensor.to(values.dtype) for tensor in inputs)
            output, *after = by_kernel(q, k, v, e, f, *before, cu_seqlens=cu_seqlens)
        elif computer == "formula" or dropout > 0.0 or not batch:  # blocks of an empty batch have no size
            output, *after = slots_by_formula(inputs, *before, bounds, dropout, chunk)
        elif length == 1 and bounds is None and not needs_gradient(*inputs, *before):
            output, *after = _step(tuple(tensor.to(exact) for tensor in inputs), *before)
        else:

            def attend(*parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                parts = (*parts, key_weights, value_weights)
                return NativeSlots.apply(*parts, *before) if computer == "native" else slots_in_blocks(parts, *before, bounds, chunk)

            output, *after = attend(queries, keys, values)
            output = keep_out(lambda *parts: attend(*parts)[0], (queries, keys, values), output)
    return output.to(dtype), SlotState(*after)


def _step(inputs: tuple[Tensor, ...], key_slots: Tensor, value_slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One token, without gradient."""
    queries, keys, values, key_weights, value_weights = inputs
    column = (-1, 1, key_weights.shape[-1], 1)
    key_slots = torch.addcmul(key_slots, key_weights.reshape(column), keys)
    value_slots = torch.addcmul(value_slots, value_weights.reshape(column), values)
    weights = ((queries * queries.shape[-1] ** -0.5) @ key_slots.mT).softmax(dim=-1)
    return weights @ value_slots, key_slots, value_slots


def causal_slot_attention_reference(queries: Tensor, keys: Tensor, values: Tensor, key_weights: Tensor, value_weights: Tensor) -> Tensor:
    """The definition, one position at a time, for weights (N, R). The oracle of the tests."""
    rows = []
    for i in range(queries.shape[-2]):
        key_slots = key_weights[: i + 1].T @ keys[..., : i + 1, :]
        value_slots = value_weights[: i + 1].T @ values[..., : i + 1, :]
        scores = queries[..., i : i + 1, :] @ key_slots.transpose(-1, -2) * queries.shape[-1] ** -0.5
        rows.append(scores.softmax(dim=-1) @ value_slots)
    return torch.cat(rows, dim=-2)
