"""Exact softmax attention by PyTorch's operators alone: what compilers and every kind of derivative take.

Axes: B batch, H heads, N length (queries), S length (keys), K head width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.numerics import exact_dtype, no_autocast
from ...core.tracing import is_open


def attention_by_formula(
    queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, causal: bool, dropout: float = 0.0
) -> Tensor:
    """The definition, by operators that have every kind of derivative; a query with no key gives zeros."""
    exact = exact_dtype(queries, values)
    with no_autocast(values):
        scores = (queries * queries.shape[-1] ** -0.5).to(exact) @ keys.to(exact).mT
        if causal:
            allowed = bottom_right_causal(queries.shape[-2], keys.shape[-2], queries.device)
        if allowed is None:
            return _drop(scores.softmax(dim=-1), dropout).to(values.dtype) @ values
        sees_a_key = allowed.any(dim=-1, keepdim=True)
        weights = scores.masked_fill(~(allowed | ~sees_a_key), -torch.inf).softmax(dim=-1)
        return torch.where(sees_a_key, _drop(weights, dropout).to(values.dtype) @ values, 0.0)


def _drop(weights: Tensor, dropout: float) -> Tensor:
    return F.dropout(weights, dropout) if dropout > 0.0 else weights


def bottom_right_causal(length: int, keys: int, device: torch.device) -> Tensor:
    """(N, S) bool: query i, counted from the end, sees keys up to its own."""
    if is_open(length, keys):  # of which ONNX knows no triangle
        places = torch.arange(keys, device=device)
        return places <= torch.arange(length, device=device)[:, None] + (keys - length)
    return torch.ones(length, keys, dtype=torch.bool, device=device).tril(keys - length)


def softmax_attention_reference(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    """The definition, in the open. The oracle of the tests."""
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    return scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1).nan_to_num(0.0) @ values
