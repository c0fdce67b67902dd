"""Softmax-weighted running mean, forward and backward: the engine of causal additive attention.

    y_i = sum_{j<=i} exp(l_j - m_i) v_j / W_i,   W_i = sum_{j<=i} exp(l_j - m_i),   m_i = max_{j<=i} l_j

Chunk by chunk: one kernel walks each document and writes the summary (maximum, weight, total) before every chunk, another computes every
chunk's output from it. Backward needs no summary of the past again, since m_i and 1 / W_i are kept; one kernel walks backwards and writes
what all later positions ask of a chunk, another computes the chunks' gradients:

    dv_j = sum_{i>=j} w_ij dy_i,   dl_j = sum_{i>=j} w_ij (dy_i v_j - dy_i y_i),   w_ij = exp(l_j - m_i) / W_i

Axes: B batch, H heads, N length, K head width, G chunks, C chunk length, P documents (B when not packed).
"""

from typing import Any

import torch
import triton
from torch import Tensor

from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.triton.common import (
    DTYPES,
    LAUNCH,
    Chunks,
    by_document,
    check_inputs,
    check_shapes,
    cut,
    documents_of,
    lines,
    plain,
    slopes,
    strides,
    tile,
)
from . import triton_device as device


def running_softmax_mean(
    logits: Tensor, values: Tensor, maximum: Tensor, weight: Tensor, total: Tensor, *, cu_seqlens: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Softmax-weighted mean of everything up to each position.

    Args:
        logits: (B, H, N) scores, float32, float16 or bfloat16; -inf for padding.
        values: (B, H, N, K) float32, float16 or bfloat16, finite for padding too. No copy is made where the last axis is contiguous.
        maximum: (P, H, 1) float32, the largest logit before, with P = B, or one row a document; -1e30 where nothing came yet.
        weight: (P, H, 1) float32, sum of exp(logit - maximum) before.
        total: (P, H, K) float32, sum of exp(logit - maximum) value before.
        cu_seqlens: (P + 1,) int64, where packed documents begin, from 0 to N, non-decreasing (not checked: that would wait for the device).
            Then B = 1.

    Returns:
        (B, H, N, K) like ``values``, exactly zero where no real token has come; and maximum, weight and total after the last position.
        Gradients reach logits, values, weight and total (the maximum is a constant).

    Raises:
        ValueError: if shapes or dtypes disagree.

    Cost O(N (C + K)) a head; what backward keeps is the inputs, the output and two float32 (B, H, N).
    """
    batch, heads, length, width = values.shape
    documents = documents_of(batch, cu_seqlens)
    check_inputs(cu_seqlens, values=values)
    if logits.dtype not in DTYPES:
        raise ValueError(f"logits must be float32, float16 or bfloat16, got {logits.dtype}")
    check_shapes(
        logits=(logits, (batch, heads, length)),
        maximum=(maximum, (documents, heads, 1)),
        weight=(weight, (documents, heads, 1)),
        total=(total, (documents, heads, width)),
    )
    output, maximum, weight, total, _, _ = _forward(logits, values, maximum.detach().float(), weight.float(), total.float(), cu_seqlens)
    return output, maximum, weight, total


@torch.library.custom_op("subquadratic::running_softmax_mean", mutates_args=())
def _forward(
    logits: Tensor, values: Tensor, maximum: Tensor, weight: Tensor, total: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output, maximum, weight and total, then m and 1 / W of each position, (B, H, N), the latter zero where W is."""
    values = lines(values)
    batch, heads, length, width = values.shape
    chunks = cut(batch, length, tile(length, values.dtype), cu_seqlens)
    output = torch.empty_like(values)
    last = plain(maximum.shape, values), plain(weight.shape, values), plain(total.shape, values)
    maxima, inverses = plain(logits.shape, values), plain(logits.shape, values)
    before = plain((chunks.total, heads), values), plain((chunks.total, heads), values), plain((chunks.total, heads, width), values)
    sizes = _sizes(values, chunks)
    tiles = triton.cdiv(width, sizes["BLOCK_K"])
    with torch.cuda.device_of(values):
        device.states_kernel[(chunks.documents * heads, tiles)](
            logits, values, maximum.contiguous(), weight.contiguous(), total.contiguous(), *before, *last, cu_seqlens, chunks.offsets,
            length, chunks.per_document, *strides(logits), *strides(values), **sizes,
        )  # fmt: skip
        device.output_kernel[(chunks.total * tiles, heads)](
            logits, values, *before, output, maxima, inverses, cu_seqlens, chunks.table, length, chunks.per_document,
            *strides(logits), *strides(values), *strides(output), **sizes,
        )  # fmt: skip
    return output, *last, maxima, inverses


@_forward.register_fake
def _(
    logits: Tensor, values: Tensor, maximum: Tensor, weight: Tensor, total: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    state = plain(maximum.shape, values), plain(weight.shape, values), plain(total.shape, values)
    return torch.empty_like(lines(values)), *state, plain(logits.shape, values), plain(logits.shape, values)


@torch.library.custom_op("subquadratic::running_softmax_mean_backward", mutates_args=())
def _backward(
    grad_output: Tensor,
    grad_weight: Tensor,
    grad_total: Tensor,
    logits: Tensor,
    values: Tensor,
    maximum: Tensor,
    output: Tensor,
    maxima: Tensor,
    inverses: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of logits, values, weight and total."""
    values, grad_output = lines(values), lines(grad_output.to(values.dtype))
    batch, heads, length, width = values.shape
    chunks = cut(batch, length, tile(length, values.dtype), cu_seqlens)
    grad_logits, grad_values = torch.empty_like(logits), torch.empty_like(values)
    after = plain((chunks.total, heads), values), plain((chunks.total, heads, width), values)
    before = plain(grad_weight.shape, values), plain(grad_total.shape, values)
    sizes = _sizes(values, chunks)
    with torch.cuda.device_of(values):
        slope = slopes(output, grad_output)
        device.reverse_kernel[(chunks.documents * heads, triton.cdiv(width, sizes["BLOCK_K"]))](
            grad_output, slope, maxima, inverses, maximum.contiguous(), grad_weight.contiguous(), grad_total.contiguous(), *after, *before,
            cu_seqlens, chunks.offsets, length, chunks.per_document, *strides(grad_output), **sizes,
        )  # fmt: skip
        device.gradient_kernel[(chunks.total, heads)](
            logits, values, grad_output, slope, maxima, inverses, *after, grad_logits, grad_values, cu_seqlens, chunks.table, length,
            chunks.per_document, *strides(logits), *strides(values), *strides(grad_output), *strides(grad_logits), *strides(grad_values),
            **sizes,
        )  # fmt: skip
    return grad_logits, grad_values, *before


@_backward.register_fake
def _(
    grad_output: Tensor,
    grad_weight: Tensor,
    grad_total: Tensor,
    logits: Tensor,
    values: Tensor,
    maximum: Tensor,
    output: Tensor,
    maxima: Tensor,
    inverses: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    state = plain(grad_weight.shape, values), plain(grad_total.shape, values)
    return torch.empty_like(logits), torch.empty_like(lines(values)), *state


def _formula(
    logits: Tensor, values: Tensor, maximum: Tensor, weight: Tensor, total: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The definition, O(N^2): for derivatives of the gradients."""

    def one(scores: Tensor, values: Tensor, start: Tensor, weight: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        m = torch.maximum(scores.detach()[..., 0].cummax(dim=-1).values, start)[..., None]
        weights = (scores.mT - m).masked_fill(torch.ones_like(scores @ scores.mT, dtype=torch.bool).triu(1), -torch.inf).exp()
        arriving = (start[..., None] - m).exp()
        weights_sum = weights.sum(dim=-1, keepdim=True) + arriving * weight[..., None]
        sums = weights @ values + arriving * total[..., None, :]
        output = torch.where(weights_sum > 0, sums / torch.where(weights_sum > 0, weights_sum, 1.0), 0.0)
        return output, m[..., -1, :], weights_sum[..., -1, :], sums[..., -1, :]

    lines, state = (logits.float()[..., None], values.float()), (maximum, weight, total)
    output, _, weight, total = by_document(one, cu_seqlens, values.shape[2], lines, state)
    return output.to(values.dtype), None, weight, total, None, None


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    keep(ctx, inputs, output[0], output[4], output[5])
    ctx.mark_non_differentiable(output[1], output[4], output[5])


@differentiable(_formula)
def _differentiate(ctx: Any, grad_output: Tensor, _: Any, grad_weight: Tensor, grad_total: Tensor, *rest: Any) -> tuple[Tensor | None, ...]:
    (logits, values, maximum, _, _, cu_seqlens), made = kept(ctx)
    grads = _backward(grad_output, grad_weight, grad_total, logits, values, maximum, *made, cu_seqlens)
    grad_logits, grad_values, grad_weight, grad_total = grads
    return grad_logits, grad_values, None, grad_weight, grad_total, None


_forward.register_autograd(_differentiate, setup_context=_remember)


def _sizes(values: Tensor, chunks: Chunks) -> dict[str, Any]:
    """What every kernel is compiled for, and how it is launched."""
    heads, width = values.shape[1], values.shape[-1]
    block = tile(width, values.dtype)
    return {"HEADS": heads, "WIDTH": width, "CHUNK": chunks.size, "BLOCK_K": block, "PACKED": chunks.table is not None, **LAUNCH}
