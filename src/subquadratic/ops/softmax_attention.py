"""Exact softmax attention through PyTorch's fused kernels, safe where a query has no key.

Axes: B batch, H heads, N length (queries), S length (keys), K head width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax_attention(
    queries: Tensor, keys: Tensor, values: Tensor, *, allowed: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(K)) v.

    Args:
        queries: (B, H, N, K).
        keys, values: (B, H, S, K).
        allowed: bool, broadcastable to (B, H, N, S), True = may attend; None = everything.
        causal: position i of N sees keys up to S - N + i. Not together with ``allowed``: a caller that needs both builds one mask.
        dropout: probability of dropping a weight; pass 0 outside training.

    Returns:
        (B, H, N, K) in the dtype of ``values``; zeros (and zero gradients) for a query that may attend to nothing.

    Raises:
        ValueError: if ``allowed`` and ``causal`` are both given.
    """
    if allowed is not None and causal:
        raise ValueError("allowed and causal=True exclude each other: put causality into allowed")
    if causal and queries.shape[-2] != keys.shape[-2]:
        allowed, causal = bottom_right_causal(queries.shape[-2], keys.shape[-2], queries.device), False
    if allowed is None:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=causal, dropout_p=dropout)
    some = allowed.any(dim=-1, keepdim=True)
    output = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed | ~some, dropout_p=dropout)
    return torch.where(some, output, 0.0)


def bottom_right_causal(length: int, keys: int, device: torch.device) -> Tensor:
    """(N, S) bool: query i, counted from the end, sees keys up to its own."""
    return torch.ones(length, keys, dtype=torch.bool, device=device).tril(keys - length)


def softmax_attention_reference(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    """The definition, in the open. The oracle of the tests."""
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    return scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1).nan_to_num(0.0) @ values
