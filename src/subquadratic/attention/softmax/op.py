"""Exact softmax attention, and who computes it: the C kernels, PyTorch's fused kernels, or the formula. Safe where a query has no key.

Axes: B batch, H heads, N length (queries), S length (keys), K head width.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from ...core.backend import computed_by
from ...core.causality import keep_out
from ...core.numerics import in_float32, is_narrow_on_cpu
from ...core.tracing import needs_gradient
from ...kernels.derivatives import is_transformed
from .formula import attention_by_formula, bottom_right_causal
from .native import FEWEST_QUERIES, NativeSoftmaxAttention, suits
from .parts import OnePart, after_past, may_be_in_parts

LARGE_MASK = 2**18  # pairs: below, one call with a mask costs less than two without


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
    if is_narrow_on_cpu(values) and queries.shape[-2] >= FEWEST_QUERIES:  # in this order: an export may not ask for a length
        return in_float32(partial(softmax_attention, allowed=allowed, causal=causal, dropout=dropout), queries, keys, values)
    output = _attend(queries, keys, values, allowed, causal, dropout)
    if not causal or dropout > 0.0 or queries.dim() != 4 or queries.shape[2] == 1:
        return output
    return keep_out(lambda q, k, v: _attend(q, k, v, None, True, dropout), (queries, keys, values), output)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, causal: bool, dropout: float) -> Tensor:
    regular = allowed is None and dropout == 0.0
    computer = computed_by(None, values, native=regular and partial(suits, queries, keys, values, causal))
    if computer == "native":
        return NativeSoftmaxAttention.apply(queries, keys, values, causal)
    if computer == "formula" and is_transformed():
        return attention_by_formula(queries, keys, values, allowed, causal, dropout)
    # What compilers and exports follow is PyTorch's fused operator, too.
    eager, length, past = computer == "torch", queries.shape[-2], keys.shape[-2] - queries.shape[-2]
    if causal and past:
        if length == 1:
            causal = False  # the last one sees everything
        elif past > 0 and length * keys.shape[-2] >= LARGE_MASK and eager and may_be_in_parts(queries, keys, values, dropout):
            return after_past(queries, keys, values, past)
        else:
            allowed, causal = bottom_right_causal(length, keys.shape[-2], queries.device), False
    if allowed is None:
        return _fused(queries, keys, values, None, causal, dropout, eager)
    sees_a_key = allowed.any(dim=-1, keepdim=True)
    return torch.where(sees_a_key, _fused(queries, keys, values, allowed | ~sees_a_key, False, dropout, eager), 0.0)


def _fused(
    queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, causal: bool, dropout: float, eager: bool
) -> Tensor:
    """PyTorch's own. The kernel that it takes on a CPU has one derivative: in eager mode it gets the others."""
    if (
        eager
        and queries.device.type == "cpu"
        and needs_gradient(queries, keys, values)
        and (not torch.is_autocast_enabled("cpu") or queries.dtype is torch.get_autocast_dtype("cpu"))
        and may_be_in_parts(queries, keys, values, dropout)
        and torch._fused_sdp_choice(queries, keys, values, allowed, dropout, causal) == SDPBackend.FLASH_ATTENTION.value
    ):
        return OnePart.apply(queries, keys, values, allowed, causal)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed, is_causal=causal, dropout_p=dropout)
