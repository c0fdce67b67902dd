"""Causal slots by PyTorch's operators alone: what compilers, every kind of derivative, and dropout take.

Everything at once: memory O(N (R + C) + N R K / C) a head.

Axes: B batch, H heads, N length, K head width, R slots, G chunks, C chunk length.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.chunking import chunk_of, cut, missing
from ...core.packed import document_chunks


def slots_by_formula(
    inputs: Sequence[Tensor],
    key_slots: Tensor,
    value_slots: Tensor,
    bounds: list[int] | None,
    dropout: float = 0.0,
    chunk: int = 64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal slot attention.

    Args:
        inputs: queries (B, H, N, K), keys and values (B, H or 1, N, K), E and F (N, R) or (B, N, R).
        key_slots, value_slots: (B or documents, H or 1, R, K) before the first position, in the dtype of the arithmetic.
        bounds: borders of packed documents, or None.
        dropout: of the weights over slots.
        chunk: C at most.

    Returns:
        (B, H, N, K) in the dtype of the values, and the slots after the last position.
    """
    given, inputs = inputs[2].dtype, [tensor.to(key_slots.dtype) for tensor in inputs]
    if bounds is None:
        output, last_keys, last_values = _one_sequence(inputs, key_slots, value_slots, dropout, chunk)
        return output.to(given), last_keys, last_values
    outputs, after = [], [(key_slots[row : row + 1], value_slots[row : row + 1]) for row in range(len(bounds) - 1)]
    for part in document_chunks(bounds, bounds[-1], bounds[-1]):
        pieces = [tensor[..., part.start : part.stop, :] for tensor in inputs]
        key_slots, value_slots = after[part.rows.start]
        output, key_slots, value_slots = _one_sequence(pieces, key_slots, value_slots, dropout, chunk)
        after[part.rows.start] = key_slots, value_slots
        outputs.append(output)
    last_keys, last_values = (torch.cat(rows) for rows in zip(*after, strict=True))
    return torch.cat(outputs, dim=-2).to(given), last_keys, last_values


def _one_sequence(
    inputs: Sequence[Tensor], key_start: Tensor, value_start: Tensor, dropout: float, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one document, or of each row."""
    length, width = inputs[0].shape[-2:]
    chunk = chunk_of(chunk, length)
    padding = missing(length, chunk)
    queries, keys, values = (_chunks(tensor, chunk, padding) for tensor in inputs[:3])  # (B, H, G, C, K)
    key_weights, value_weights = (_weight_chunks(tensor, chunk, padding) for tensor in inputs[3:])  # (B|1, 1, G, C, R)
    key_slots, last_keys = _before_each(key_weights.transpose(-1, -2) @ keys, key_start)
    value_slots, last_values = _before_each(value_weights.transpose(-1, -2) @ values, value_start)

    queries = queries * width**-0.5
    scores = queries @ key_slots.transpose(-1, -2) + (queries @ keys.transpose(-1, -2)).tril() @ key_weights
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    output = weights @ value_slots + (weights @ value_weights.transpose(-1, -2)).tril() @ values
    return output.flatten(2, 3)[..., :length, :], last_keys, last_values


def _before_each(sums: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Running totals of (B, H, G, R, K) before each chunk, and after the last."""
    line = torch.cat((start[:, :, None], sums), dim=2).cumsum(dim=2)
    return line[:, :, :-1], line[:, :, -1]


def _chunks(tensor: Tensor, chunk: int, padding: int) -> Tensor:
    return cut(F.pad(tensor, (0, 0, 0, padding)), chunk)


def _weight_chunks(weights: Tensor, chunk: int, padding: int) -> Tensor:
    if weights.dim() == 2:
        weights = weights[None]
    return _chunks(weights, chunk, padding)[:, None]
