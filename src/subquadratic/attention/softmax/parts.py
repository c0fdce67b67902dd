"""Exact softmax attention by the kernel that PyTorch has for CPUs, called by itself: it also gives the logarithm of the normaliser.

PyTorch's kernel takes no mask but the square causal one. Other regular patterns are cut into parts that need none, or a small one: each
part gives its output and the logarithm of its normaliser, and parts merge by these (as in ring attention, arXiv 2310.01889). No mask of
N x S, and no copy of keys, exists then.

Axes: B batch, H heads, N length (queries), S length (keys), K head width.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.layout import dense_channels
from ...core.tracing import needs_gradient
from ...kernels.derivatives import differentiable, keep, kept
from .formula import attention_by_formula


def may_be_in_parts(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> bool:
    """Whether attention of these may be computed in parts: on a CPU, without dropout (whose weights no part knows), and not traced
    by torch.jit. Nor where a compiler or a transform follows, which the caller has asked."""
    return (
        queries.device.type == "cpu"
        and dropout == 0
        and queries.dtype == keys.dtype == values.dtype
        and queries.numel() > 0
        and keys.shape == values.shape
        and not torch.jit.is_tracing()  # whose graphs hold no backward written by hand
        and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward")
    )


def part(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention to some of the keys: the output (B, H, N, K) and the logarithm of its normaliser (B, H, N); not for autograd.

    Args:
        queries, keys, values: (B, H, N, K) and (B, H, S, K), channels of a head next to each other.
        causal: as in PyTorch: query i sees keys up to i.
        bias: added to the logits, broadcastable to (B, 1, N, S).
    """
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values, 0.0, causal, attn_mask=bias)


def merge_(output: Tensor, normaliser: Tensor, other: Tensor, other_normaliser: Tensor) -> None:
    """Make of the first part both parts together, in place."""
    share = torch.sigmoid(other_normaliser - normaliser).to(output.dtype)
    torch.logaddexp(normaliser, other_normaliser, out=normaliser)
    output.lerp_(other, share[..., None])


def part_gradients(
    gradient: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    output: Tensor,
    normaliser: Tensor,
    *,
    causal: bool = False,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a part adds to the gradients of its queries, keys and values, from the output and normaliser of all parts together."""
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return backward(gradient, queries, keys, values, output, normaliser, 0.0, causal, attn_mask=bias)


def after_past(queries: Tensor, keys: Tensor, values: Tensor, past: int) -> Tensor:
    """Causal attention whose first query stands ``past`` keys after the first key."""
    if needs_gradient(queries, keys, values):
        return _AfterPast.apply(queries, keys, values, past)
    return _two_parts(dense_channels(queries), dense_channels(keys), dense_channels(values), past)[0]


def _two_parts(queries: Tensor, keys: Tensor, values: Tensor, past: int) -> tuple[Tensor, Tensor]:
    output, normaliser = part(queries, keys[..., past:, :], values[..., past:, :], causal=True)
    merge_(output, normaliser, *part(queries, keys[..., :past, :], values[..., :past, :]))
    return output, normaliser


class _AfterPast(torch.autograd.Function):
    """The past without a mask, and the square after it."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, past: int) -> Tensor:
        output, normaliser = _two_parts(dense_channels(queries), dense_channels(keys), dense_channels(values), past)
        keep(ctx, (queries, keys, values, past), output, normaliser)
        return output

    @staticmethod
    @differentiable(lambda queries, keys, values, past: attention_by_formula(queries, keys, values, None, True))
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (*given, past), known = kept(ctx)
        gradient, queries, keys, values = (dense_channels(x) for x in (gradient, *given))
        d_queries, *here = part_gradients(gradient, queries, keys[..., past:, :], values[..., past:, :], *known, causal=True)
        more, *before = part_gradients(gradient, queries, keys[..., :past, :], values[..., :past, :], *known)
        d_keys, d_values = (torch.cat(both, dim=-2) for both in zip(before, here, strict=True))
        return d_queries.add_(more), d_keys, d_values, None


class OnePart(torch.autograd.Function):
    """(queries, keys, values, allowed, causal) -> output (B, H, N, K), with the derivatives that PyTorch's kernel has not."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, causal: bool) -> Tensor:
        rows = (dense_channels(x) for x in (queries, keys, values))
        output, normaliser = part(*rows, causal=causal, bias=_as_bias(allowed, queries))
        keep(ctx, (queries, keys, values, allowed, causal), output, normaliser)
        return output

    @staticmethod
    @differentiable(attention_by_formula)
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (*given, allowed, causal), known = kept(ctx)
        rows = (dense_channels(x) for x in (gradient, *given))
        return *part_gradients(*rows, *known, causal=causal, bias=_as_bias(allowed, given[0])), None, None


def _as_bias(allowed: Tensor | None, like: Tensor) -> Tensor | None:
    return None if allowed is None else torch.zeros_like(allowed, dtype=like.dtype).masked_fill_(~allowed, -torch.inf)
