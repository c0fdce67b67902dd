"""Inputs of the slot kernels, and what they compute, in float64 one position at a time."""

from typing import NamedTuple

import torch
from torch import Tensor

from subquadratic.attention.low_rank.triton import causal_slot_attention


class Case(NamedTuple):
    """In the order of the function's arguments; all have gradients."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    key_weights: Tensor
    value_weights: Tensor
    key_slots: Tensor
    value_slots: Tensor

    def with_leaves(self, dtype: torch.dtype | None = None) -> "Case":
        """Fresh leaves, of another dtype where one is given."""
        return Case(*(tensor.detach().to(dtype or tensor.dtype, copy=True).requires_grad_() for tensor in self))


class Shape(NamedTuple):
    batch: int
    heads: int
    shared: int  # heads of keys and values
    length: int
    slots: int
    width: int
    value_width: int


def case(shape: Shape, *, dtype: torch.dtype, device: torch.device, rows: int | None = None, empty: bool = False) -> Case:
    """Heads split from (B, N, H, .) as a projection gives them; slots of something that came before, or of nothing.

    ``rows``: how many sets of weights; None: one without a batch axis.
    """
    b, h, j, n, r, k, v = shape
    queries, keys, values = (torch.randn(b, n, heads, width).transpose(1, 2) for heads, width in ((h, k), (j, k), (j, v)))
    weights = torch.randn(2, *(() if rows is None else (rows,)), n, r) * 0.3
    slots = torch.randn(b, j, r, k), torch.randn(b, j, r, v)
    if empty:
        slots = torch.zeros_like(slots[0]), torch.zeros_like(slots[1])
    moved = [tensor.to(device, dtype) for tensor in (queries, keys, values, *weights.unbind())]
    return Case(*moved, *(tensor.to(device) for tensor in slots))


def run(case: Case, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    return causal_slot_attention(*case, cu_seqlens=cu_seqlens)


def recurrence(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Output and slots by the definition."""
    queries, keys, values, key_weights, value_weights, key_slots, value_slots = case
    if key_weights.dim() == 2:
        key_weights, value_weights = key_weights[None], value_weights[None]
    outputs = []
    for t in range(queries.shape[2]):
        key_slots = key_slots + key_weights[:, None, t, :, None] * keys[:, :, t, None, :]
        value_slots = value_slots + value_weights[:, None, t, :, None] * values[:, :, t, None, :]
        scores = queries[:, :, t, None] @ key_slots.transpose(-1, -2) * queries.shape[-1] ** -0.5
        outputs.append((scores.softmax(dim=-1) @ value_slots)[:, :, 0])
    return torch.stack(outputs, dim=2), key_slots, value_slots
