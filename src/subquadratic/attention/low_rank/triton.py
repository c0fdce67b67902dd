"""Causal attention over slots, forward and backward: the engine of the causal Linformer.

    K_i = sum_{j<=i} E_j (x) k_j,   V_i = sum_{j<=i} F_j (x) v_j,   o_i = softmax(q_i K_i^T / sqrt(K)) V_i

Chunk by chunk, with scores = q K^T + tril(q k^T) E and output = p V + tril(p F^T) v, the softmax over slots taken block by block. One
kernel walks each document and writes the slots before every chunk, another computes every chunk's output. Backward: what each chunk asks of
the slots before it, summed backwards, is the gradient of the slots after every chunk; from both come the gradients of rows and of weights.
No N x R tensor is formed but E, F and their gradients.

Axes: B batch, H heads, J heads of keys and values (H or 1), N length, K head width, V width of values, R slots, G chunks, C chunk length,
P documents (B when not packed).
"""

from typing import Any

import torch
import triton
from torch import Tensor

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


def causal_slot_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    key_weights: Tensor,
    value_weights: Tensor,
    key_slots: Tensor,
    value_slots: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention of each position to slots that hold the positions up to it. No dropout.

    Args:
        queries: (B, H, N, K).
        keys, values: (B, J, N, K) and (B, J, N, V), J = H or 1 for all heads; zero for padding. K and V up to 256.
        key_weights, value_weights: E and F at these positions, (N, R) or (B, N, R). All five share one dtype: float32, float16 or bfloat16;
            no copy is made where the last axis is contiguous.
        key_slots, value_slots: (P, J, R, K) and (P, J, R, V) float32, the slots before, with P = B, or one row a document.
        cu_seqlens: (P + 1,) int64, where packed documents begin, from 0 to N, non-decreasing (not checked: that would wait for the device).
            Then B = 1, and the weights are those of each position in its own document.

    Returns:
        (B, H, N, V) like ``queries``, and the two slots after the last position. Gradients reach all seven tensors.

    Raises:
        ValueError: if shapes or dtypes disagree, or a head is wider than 256.

    Cost O(N (R K + C (K + R))) a head; what backward keeps is the inputs, the output and a float32 (B, H, N). While it runs,
    2 N R (K + V) / C float32 a head of keys hold slots and their gradients, with C = 64 (32 in float32, less for heads wider than 64).
    """
    batch, heads, length, width = queries.shape
    shared, value_width, slots = keys.shape[1], values.shape[-1], key_weights.shape[-1]
    documents = documents_of(batch, cu_seqlens)
    if key_weights.dim() == 2:
        key_weights = key_weights[None]
    if value_weights.dim() == 2:
        value_weights = value_weights[None]
    rows = key_weights.shape[0]
    check_inputs(cu_seqlens, queries=queries, keys=keys, values=values, key_weights=key_weights, value_weights=value_weights)
    if shared not in (1, heads) or rows not in (1, batch):
        raise ValueError(f"keys must have 1 or {heads} heads and key_weights 1 or {batch} rows, got {shared} and {rows}")
    if max(width, value_width) > 256:
        raise ValueError(f"heads must be at most 256 wide, got {max(width, value_width)}")
    check_shapes(
        keys=(keys, (batch, shared, length, width)),
        values=(values, (batch, shared, length, value_width)),
        key_weights=(key_weights, (rows, length, slots)),
        value_weights=(value_weights, (rows, length, slots)),
        key_slots=(key_slots, (documents, shared, slots, width)),
        value_slots=(value_slots, (documents, shared, slots, value_width)),
    )
    output, key_slots, value_slots, _ = _forward(
        queries, keys, values, key_weights, value_weights, key_slots.float(), value_slots.float(), cu_seqlens
    )
    return output, key_slots, value_slots


@torch.library.custom_op("subquadratic::causal_slot_attention", mutates_args=())
def _forward(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    key_weights: Tensor,
    value_weights: Tensor,
    key_slots: Tensor,
    value_slots: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, both slots, and the logarithm of each position's normaliser (B, H, N)."""
    inputs = _lines(queries, keys, values, key_weights, value_weights)
    batch, heads, length, _ = queries.shape
    sizes, chunks = _plan(inputs, cu_seqlens)
    output = torch.empty(batch, heads, length, values.shape[-1], device=queries.device, dtype=queries.dtype)
    levels = plain((batch, heads, length), queries)
    with torch.cuda.device_of(queries):
        before_keys, last_keys = _slots(inputs[3], inputs[1], key_slots, cu_seqlens, chunks, sizes)
        before_values, last_values = _slots(inputs[4], inputs[2], value_slots, cu_seqlens, chunks, sizes)
        device.output_kernel[(chunks.total, heads)](
            *inputs, before_keys, before_values, output, levels, cu_seqlens, chunks.table, length, chunks.per_document,
            *_steps(*inputs), *strides(output), **sizes, **more_warps(queries.dtype),
        )  # fmt: skip
    return output, last_keys, last_values, levels


@_forward.register_fake
def _(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    key_weights: Tensor,
    value_weights: Tensor,
    key_slots: Tensor,
    value_slots: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    output = queries.new_empty((*queries.shape[:3], values.shape[-1]))
    return output, plain(key_slots.shape, queries), plain(value_slots.shape, queries), plain(queries.shape[:3], queries)


@torch.library.custom_op("subquadratic::causal_slot_attention_backward", mutates_args=())
def _backward(
    grad_output: Tensor,
    grad_key_slots: Tensor,
    grad_value_slots: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    key_weights: Tensor,
    value_weights: Tensor,
    key_slots: Tensor,
    value_slots: Tensor,
    output: Tensor,
    levels: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, keys, values; of key_weights and value_weights for each row of the batch, in float32; of both slots."""
    inputs = _lines(queries, keys, values, key_weights, value_weights)
    batch, _, length, _ = queries.shape
    shared, slots = keys.shape[1], key_weights.shape[-1]
    grad_output = lines(grad_output.to(queries.dtype))
    sizes, chunks = _plan(inputs, cu_seqlens)
    rows = inputs[:3] + [grad_output]
    grads = [torch.empty_like(tensor) for tensor in inputs[:3]]
    grad_weights = plain((batch, length, slots), queries), plain((batch, length, slots), queries)
    sizes = sizes | {"BLOCK_R": min(32, sizes["BLOCK_R"])}  # more tiles at a time than forward, so smaller ones
    tiles = triton.cdiv(slots, sizes["BLOCK_R"])
    with torch.cuda.device_of(queries):
        before_keys, _ = _slots(inputs[3], inputs[1], key_slots, cu_seqlens, chunks, sizes)
        before_values, _ = _slots(inputs[4], inputs[2], value_slots, cu_seqlens, chunks, sizes)
        after_keys, after_values = torch.empty_like(before_keys), torch.empty_like(before_values)
        given = (*rows, *inputs[3:], before_keys, before_values, levels, slopes(output, grad_output), after_keys, after_values)
        place = cu_seqlens, chunks.table, length, chunks.per_document
        steps = (*(step for tensor in rows for step in strides(tensor)), *_weight_steps(*inputs[3:]))
        device.slot_gradient_kernel[(chunks.total * tiles, shared)](*given, *place, *steps, **sizes, num_warps=8, num_stages=1)
        first_keys = _sum_backwards(after_keys, grad_key_slots, cu_seqlens, chunks, length)
        first_values = _sum_backwards(after_values, grad_value_slots, cu_seqlens, chunks, length)
        more = (step for tensor in grads for step in strides(tensor))
        device.row_gradient_kernel[(chunks.total, shared)](*given, *grads, *place, *steps, *more, **sizes, num_warps=8, num_stages=2)
        device.weight_gradient_kernel[(chunks.total, tiles)](*given, *grad_weights, *place, *steps, **sizes, num_warps=8, num_stages=1)
    return grads[0], grads[1], grads[2], *grad_weights, first_keys, first_values


@_backward.register_fake
def _(
    grad_output: Tensor,
    grad_key_slots: Tensor,
    grad_value_slots: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    key_weights: Tensor,
    value_weights: Tensor,
    key_slots: Tensor,
    value_slots: Tensor,
    output: Tensor,
    levels: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grads = [torch.empty_like(lines(tensor)) for tensor in (queries, keys, values)]
    shape = (queries.shape[0], queries.shape[2], key_weights.shape[-1])
    weights = plain(shape, queries), plain(shape, queries)
    return grads[0], grads[1], grads[2], *weights, plain(key_slots.shape, queries), plain(value_slots.shape, queries)


def _formula(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    key_weights: Tensor,
    value_weights: Tensor,
    key_slots: Tensor,
    value_slots: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """The definition, O(N^2): for derivatives of the gradients."""

    def one(q: Tensor, k: Tensor, v: Tensor, e: Tensor, f: Tensor, key_slots: Tensor, value_slots: Tensor) -> tuple[Tensor, ...]:
        scores = q @ key_slots.mT + (q @ k.mT).tril() @ e
        weights = (scores * q.shape[-1] ** -0.5).softmax(dim=-1)
        output = weights @ value_slots + (weights @ f.mT).tril() @ v
        return output, key_slots + e.mT @ k, value_slots + f.mT @ v

    lines = [x.float() for x in (queries, keys, values, key_weights[:, None], value_weights[:, None])]
    output, key_slots, value_slots = by_document(one, cu_seqlens, queries.shape[2], lines, (key_slots, value_slots))
    return output.to(queries.dtype), key_slots, value_slots, None


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    keep(ctx, inputs, output[0], output[3])
    ctx.mark_non_differentiable(output[3])


@differentiable(_formula)
def _differentiate(ctx: Any, grad_output: Tensor, grad_keys: Tensor, grad_values: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    (*inputs, cu_seqlens), made = kept(ctx)
    key_weights = inputs[3]
    found = _backward(grad_output, grad_keys, grad_values, *inputs, *made, cu_seqlens)
    *grads, of_keys, of_values, first_keys, first_values = found
    of_keys, of_values = (
        (grad if key_weights.shape[0] == grad.shape[0] else grad.sum(dim=0, keepdim=True)).to(key_weights.dtype)
        for grad in (of_keys, of_values)
    )
    return *grads, of_keys, of_values, first_keys, first_values, None


_forward.register_autograd(_differentiate, setup_context=_remember)


def _lines(*tensors: Tensor) -> list[Tensor]:
    return [lines(tensor) for tensor in tensors]


def _weight_steps(key_weights: Tensor, value_weights: Tensor) -> tuple[int, int, int, int]:
    """Steps along (B, N) of both (B or 1, N, R)."""
    found = []
    for tensor in (key_weights, value_weights):
        found += [tensor.stride(0) if tensor.shape[0] > 1 else 0, tensor.stride(1)]
    return found[0], found[1], found[2], found[3]


def _steps(queries: Tensor, keys: Tensor, values: Tensor, key_weights: Tensor, value_weights: Tensor) -> tuple[int, ...]:
    return (*strides(queries), *strides(keys), *strides(values), *_weight_steps(key_weights, value_weights))


def _plan(inputs: list[Tensor], cu_seqlens: Tensor | None) -> tuple[dict[str, Any], Chunks]:
    """What every kernel is compiled for, and the chunks: shorter ones for wide heads, which programs hold whole."""
    queries, keys, values, key_weights, _ = inputs
    batch, heads, length, width = queries.shape
    dtype, slots, value_width = queries.dtype, key_weights.shape[-1], values.shape[-1]
    block_k, block_v = max(16, triton.next_power_of_2(width)), max(16, triton.next_power_of_2(value_width))
    most = max(16, 64 * tile(64, dtype) // max(64, block_k, block_v))
    chunks = cut(batch, length, min(most, tile(length, dtype)), cu_seqlens)
    sizes = {
        "HEADS": heads, "GROUP": heads // keys.shape[1], "SLOTS": slots, "WIDTH": width, "VALUE_WIDTH": value_width, "CHUNK": chunks.size,
        "BLOCK_R": min(most, tile(slots, dtype)), "BLOCK_K": block_k, "BLOCK_V": block_v, "SCALE": width**-0.5,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32", "PACKED": cu_seqlens is not None,
    }  # fmt: skip
    return sizes, chunks


def _slots(
    weights: Tensor, rows: Tensor, start: Tensor, cu_seqlens: Tensor | None, chunks: Chunks, sizes: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """(G, J, R, .) slots before each chunk, and (P, J, R, .) those after the last of each document."""
    _, shared, length, width = rows.shape
    slots = weights.shape[-1]
    before, last = plain((chunks.total, shared, slots, width), rows), plain(start.shape, rows)
    block_r, block_k = sizes["BLOCK_R"], tile(width, rows.dtype)
    device.slots_kernel[(chunks.documents * shared, triton.cdiv(slots, block_r), triton.cdiv(width, block_k))](
        weights, rows, start.contiguous(), before, last, cu_seqlens, chunks.offsets, length, chunks.per_document,
        *_weight_steps(weights, weights)[:2], *strides(rows), shared, slots, width, chunks.size, block_r, block_k, sizes["PACKED"],
        **LAUNCH,
    )  # fmt: skip
    return before, last


def _sum_backwards(sums: Tensor, grad_last: Tensor, cu_seqlens: Tensor | None, chunks: Chunks, length: int) -> Tensor:
    """Makes ``sums`` (G, J, R, .) those of all later chunks, in place; the gradient of the slots before everything."""
    first, size = plain(grad_last.shape, sums), sums[0, 0].numel()
    device.reverse_kernel[(chunks.documents * sums.shape[1], triton.cdiv(size, 512))](
        sums, grad_last.contiguous(), first, cu_seqlens, chunks.offsets, length, chunks.per_document, sums.shape[1], size, chunks.size,
        BLOCK=512, PACKED=cu_seqlens is not None, **LAUNCH,
    )  # fmt: skip
    return first
