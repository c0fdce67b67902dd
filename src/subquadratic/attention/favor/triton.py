"""Causal FAVOR+ on a GPU: features by PyTorch, then causal linear attention with a running-maximum stabiliser and its normaliser by Triton
kernels, forward and backward.

    S_t = exp(m_{t-1} - m_t) S_{t-1} + k_t v_t^T,   z_t likewise,   o_t = q_t S_t / q_t z_t

Chunk by chunk. One kernel walks each document and writes the state (S, z) before every chunk; another computes every chunk's output from
its state. Backward: one kernel walks backwards and writes the gradient of the state after every chunk, others compute the chunks' gradients
from both. The states are computed again for that, not kept. Every exponent is a difference <= 0.

Axes: B batch, H heads, N length, M features, K head width, G chunks, C chunk length, P documents (B when not packed).
"""

from typing import Any

import torch
import triton
from torch import Tensor

from ...core.numerics import EMPTY
from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.triton.common import (
    LAUNCH,
    Chunks,
    by_document,
    check_inputs,
    check_shapes,
    cut,
    documents_of,
    lines,
    more_warps,
    plain,
    slopes,
    strides,
    tile,
)
from . import triton_device as device
from .features import softmax_exponents
from .state import FeatureState

EXPONENTS_APART = 1e6  # between the exponents of packed documents, in float64: none comes near it, and 1e-10 of it is told apart


def favor_by_kernel(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    projection: Tensor | None,
    state: FeatureState,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``CausalFavor.apply``: the output (B, H, N, K), and total, weight and maximum after the last position.

    Exponents and stabilisers are float32; features then take the dtype of ``values``, for the matrix units, but float32 instead of float16,
    which cannot hold the gradient of a key far below the maximum.
    """
    given, values = values.dtype, values.float() if values.dtype is torch.float16 else values
    if projection is None:
        features_q, features_k = queries, keys if mask is None else keys.masked_fill(~mask[:, None, :, None], 0.0)
        running, start = torch.zeros_like(queries[..., 0], dtype=torch.float32), state.maximum
    else:
        log_q, log_k = (softmax_exponents(x.float(), projection)[0] for x in (queries, keys))
        features_q = (log_q - log_q.detach().amax(dim=-1, keepdim=True)).exp()
        if mask is not None:
            log_k = log_k.masked_fill(~mask[:, None, :, None], -torch.inf)
        start = state.maximum
        running = running_maximum(log_k.detach().amax(dim=-1).clamp_min(EMPTY), start, cu_seqlens)
        features_k = (log_k - running[..., None]).exp()
    output, total, weight = gated_linear_attention(
        features_q.to(values.dtype), features_k.to(values.dtype), values, running, state.total, state.weight, start, cu_seqlens=cu_seqlens
    )
    return output.to(given), total, weight, last_of_each(running, start, cu_seqlens)


def running_maximum(values: Tensor, start: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Largest of ``start`` (P, H, 1) and the values (B, H, N) up to each position, in its own document; without waiting for the device."""
    if cu_seqlens is None:
        return torch.maximum(values.cummax(dim=-1).values, start)
    document = documents_at(cu_seqlens, values.shape[-1])
    lifted = values.clamp_min(-EXPONENTS_APART / 4).double() + document * EXPONENTS_APART
    running = (lifted.cummax(dim=-1).values - document * EXPONENTS_APART).to(values.dtype)
    return torch.maximum(running, start[document, :, 0].T[None])


def last_of_each(running: Tensor, start: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """The running maximum (P, H, 1) after the last position of each document; what it was before an empty one."""
    if cu_seqlens is None:
        return running[..., -1:]
    last = running[0].T[(cu_seqlens[1:] - 1).clamp_min(0)][..., None]  # (P, H, 1)
    return torch.where((cu_seqlens.diff() > 0)[:, None, None], last, start)


def documents_at(cu_seqlens: Tensor, length: int) -> Tensor:
    """(N,) int64: the document of each position."""
    return torch.searchsorted(cu_seqlens[1:].contiguous(), torch.arange(length, device=cu_seqlens.device), right=True)


def gated_linear_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    maximum: Tensor,
    total: Tensor,
    weight: Tensor,
    start: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal linear attention over positive features given as exp(log k - maximum).

    Args:
        queries: (B, H, N, M) query features >= 0, scaled per row as one likes (the scale cancels).
        keys: (B, H, N, M) key features divided by exp(maximum) of their position; zero for padding.
        values: (B, H, N, K). Queries, keys and values share one dtype: float32, float16 or bfloat16. No copy is made where the last axis is
            contiguous.
        maximum: (B, H, N) float32, the running maximum of the exponents: non-decreasing in each document and never below its ``start``.
        total: (P, H, M, K) float32, sum of exp(log k - start) v^T before, with P = B, or one row a document.
        weight: (P, H, M) float32, sum of exp(log k - start) before.
        start: (P, H, 1) float32, the running maximum before; -1e30 where nothing came yet.
        cu_seqlens: (P + 1,) int64, where packed documents begin, from 0 to N, non-decreasing (not checked: that would wait for the device).
            Then B = 1.

    Returns:
        (B, H, N, K) like ``values``, exactly zero where abs(q z) <= 1e-24; and the total and weight after the last position, relative to
        exp of the last maximum. Gradients reach all but ``maximum`` and ``start``.

    Raises:
        ValueError: if shapes or dtypes disagree.

    Cost O(N (M K + C (M + K))) a head; what backward keeps is the inputs, the output and a float32 (B, H, N). While it runs, N M K / C
    float32 a head hold the states.
    """
    batch, heads, length, features = queries.shape
    documents, width = documents_of(batch, cu_seqlens), values.shape[-1]
    check_inputs(cu_seqlens, queries=queries, keys=keys, values=values)
    check_shapes(
        keys=(keys, (batch, heads, length, features)),
        values=(values, (batch, heads, length, width)),
        maximum=(maximum, (batch, heads, length)),
        total=(total, (documents, heads, features, width)),
        weight=(weight, (documents, heads, features)),
        start=(start, (documents, heads, 1)),
    )
    maximum, total, weight, start = (tensor.float() for tensor in (maximum.detach(), total, weight, start.detach()))
    output, total, weight, _ = _forward(queries, keys, values, maximum, total, weight, start, cu_seqlens)
    return output, total, weight


@torch.library.custom_op("subquadratic::gated_linear_attention", mutates_args=())
def _forward(
    queries: Tensor, keys: Tensor, values: Tensor, maximum: Tensor, total: Tensor, weight: Tensor, start: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, total and weight, and 1 / normaliser (B, H, N), zero where there is none."""
    queries, keys, values, maximum, start = _contiguous(queries, keys, values, maximum, start)
    batch, heads, length, width = values.shape
    chunks = cut(batch, length, tile(length, values.dtype), cu_seqlens)
    output = torch.empty_like(values)
    inverse = plain(maximum.shape, values)
    with torch.cuda.device_of(values):
        totals, weights, last_total, last_weight = _states(keys, values, maximum, start, total, weight, cu_seqlens, chunks)
        sizes = _sizes(queries, values, chunks)
        value_tiles = triton.cdiv(width, sizes["BLOCK_K"])
        device.output_kernel[(chunks.total * value_tiles, heads)](
            queries, keys, values, maximum, start, totals, weights, output, inverse, cu_seqlens, chunks.table, length, chunks.per_document,
            *strides(queries), *strides(keys), *strides(values), *strides(output), **sizes,
        )  # fmt: skip
    return output, last_total, last_weight, inverse


@_forward.register_fake
def _(
    queries: Tensor, keys: Tensor, values: Tensor, maximum: Tensor, total: Tensor, weight: Tensor, start: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    new = torch.empty_like
    return new(lines(values)), plain(total.shape, total), plain(weight.shape, total), plain(maximum.shape, total)


@torch.library.custom_op("subquadratic::gated_linear_attention_backward", mutates_args=())
def _backward(
    grad_output: Tensor,
    grad_total: Tensor,
    grad_weight: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    maximum: Tensor,
    total: Tensor,
    weight: Tensor,
    start: Tensor,
    output: Tensor,
    inverse: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, keys, values, total and weight."""
    queries, keys, values, maximum, start = _contiguous(queries, keys, values, maximum, start)
    grad_output = lines(grad_output.to(values.dtype))
    batch, heads, length, features = queries.shape
    width = values.shape[-1]
    chunks = cut(batch, length, tile(length, values.dtype), cu_seqlens)
    grads = [torch.empty_like(tensor) for tensor in (queries, keys, values)]
    before = plain(total.shape, values), plain(weight.shape, values)
    with torch.cuda.device_of(values):
        totals, weights, _, _ = _states(keys, values, maximum, start, total, weight, cu_seqlens, chunks)
        grad_totals, grad_weights = torch.empty_like(totals), torch.empty_like(weights)
        slope = slopes(output, grad_output)
        sizes = _sizes(queries, values, chunks)
        feature_tiles, value_tiles = triton.cdiv(features, sizes["BLOCK_M"]), triton.cdiv(width, sizes["BLOCK_K"])
        device.reverse_kernel[(chunks.documents * heads, feature_tiles, value_tiles)](
            queries, grad_output, slope, inverse, maximum, start, grad_total.contiguous(), grad_weight.contiguous(),
            grad_totals, grad_weights, *before, cu_seqlens, chunks.offsets, length, chunks.per_document,
            *strides(queries), *strides(grad_output), **sizes,
        )  # fmt: skip
        device.features_kernel[(chunks.total * feature_tiles, heads)](
            queries, keys, values, grad_output, slope, inverse, maximum, start, totals, weights, grad_totals, grad_weights, *grads[:2],
            cu_seqlens, chunks.table, length, chunks.per_document, *strides(queries), *strides(keys), *strides(values),
            *strides(grad_output), *strides(grads[0]), *strides(grads[1]), **(sizes | more_warps(values.dtype)),
        )  # fmt: skip
        device.values_kernel[(chunks.total * value_tiles, heads)](
            queries, keys, grad_output, inverse, maximum, grad_totals, grads[2], cu_seqlens, chunks.table, length, chunks.per_document,
            *strides(queries), *strides(keys), *strides(grad_output), *strides(grads[2]), **sizes,
        )  # fmt: skip
    return grads[0], grads[1], grads[2], *before


@_backward.register_fake
def _(
    grad_output: Tensor,
    grad_total: Tensor,
    grad_weight: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    maximum: Tensor,
    total: Tensor,
    weight: Tensor,
    start: Tensor,
    output: Tensor,
    inverse: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    new = torch.empty_like
    return new(lines(queries)), new(lines(keys)), new(lines(values)), plain(total.shape, total), plain(weight.shape, total)


def _formula(
    queries: Tensor, keys: Tensor, values: Tensor, maximum: Tensor, total: Tensor, weight: Tensor, start: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The definition, O(N^2): for derivatives of the gradients."""

    def one(q: Tensor, k: Tensor, v: Tensor, m: Tensor, total: Tensor, weight: Tensor, start: Tensor) -> tuple[Tensor, ...]:
        decay, arriving, last = (m.mT - m).clamp_max(0.0).exp().tril(), (start[..., None] - m).exp(), m[..., -1:, :]
        scores = (q @ k.mT) * decay
        above = scores @ v + arriving * (q @ total)
        below = scores.sum(dim=-1, keepdim=True) + arriving * (q @ weight[..., None])
        some, rest, k = below.abs() > 1e-24, (start[..., None] - last).exp(), k * (m - last).exp()
        output = torch.where(some, above / torch.where(some, below, 1.0), 0.0)
        return output, rest * total + k.mT @ v, rest[..., 0] * weight + k.sum(dim=-2), start

    lines = (*(x.float() for x in (queries, keys, values)), maximum[..., None])
    output, total, weight, _ = by_document(one, cu_seqlens, queries.shape[2], lines, (total, weight, start))
    return output.to(values.dtype), total, weight, None


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    keep(ctx, inputs, output[0], output[3])
    ctx.mark_non_differentiable(output[3])


@differentiable(_formula)
def _differentiate(ctx: Any, grad_output: Tensor, grad_total: Tensor, grad_weight: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (*inputs, cu_seqlens), made = kept(ctx)
    grads = _backward(grad_output, grad_total, grad_weight, *inputs, *made, cu_seqlens)
    return *grads[:3], None, *grads[3:], None, None


_forward.register_autograd(_differentiate, setup_context=_remember)


def _contiguous(queries: Tensor, keys: Tensor, values: Tensor, maximum: Tensor, start: Tensor) -> tuple[Tensor, ...]:
    return lines(queries), lines(keys), lines(values), maximum.contiguous(), start.contiguous()


def _sizes(queries: Tensor, values: Tensor, chunks: Chunks) -> dict[str, Any]:
    """What every kernel is compiled for, and how it is launched."""
    features, width, dtype = queries.shape[-1], values.shape[-1], values.dtype
    return {
        "HEADS": queries.shape[1], "FEATURES": features, "WIDTH": width, "CHUNK": chunks.size,
        "BLOCK_M": tile(features, dtype), "BLOCK_K": tile(width, dtype), "PACKED": chunks.table is not None, **LAUNCH,
    }  # fmt: skip


def _states(
    keys: Tensor, values: Tensor, maximum: Tensor, start: Tensor, total: Tensor, weight: Tensor, cu_seqlens: Tensor | None, chunks: Chunks
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(G, H, M, K) totals and (G, H, M) weights before each chunk, and those after the last of each document."""
    _, heads, length, features = keys.shape
    width = values.shape[-1]
    totals, weights = plain((chunks.total, heads, features, width), keys), plain((chunks.total, heads, features), keys)
    last = plain(total.shape, keys), plain(weight.shape, keys)
    sizes = _sizes(keys, values, chunks)
    device.states_kernel[(chunks.documents * heads, triton.cdiv(features, sizes["BLOCK_M"]), triton.cdiv(width, sizes["BLOCK_K"]))](
        keys, values, maximum, start, total.contiguous(), weight.contiguous(), totals, weights, *last, cu_seqlens, chunks.offsets, length,
        chunks.per_document, *strides(keys), *strides(values), **sizes,
    )  # fmt: skip
    return totals, weights, *last
