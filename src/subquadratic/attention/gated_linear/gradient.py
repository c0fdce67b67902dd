"""Gated linear attention with a backward of its own: block by block, keeping the inputs and the summary before each block.

A block is a run of chunks that are computed together. The gradient of the decays needs no product of its own: q_i comes with exp(g_i)
alone, and k_j with exp(-g_j), so the gradient of g_i is q_i * dq_i - k_i * dk_i, and that of a log decay the sum of these from its position
on (GLA, arXiv 2312.06635, section 4.3).

Axes: B batch, H heads, N length, K width of queries and keys, V width of values, G chunks, C chunk length.
"""

from typing import Any

import torch
from torch import Tensor

from ...kernels.derivatives import differentiable, keep, kept
from .chunks import by_chunk, fading_between, halves, mix, summaries, weights

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # queries, keys, values, log decays: (B, H, N, .)


def mix_blocks(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor, total: Tensor, block: int, size: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Outputs (B, H, N, V), the summary after, and those before each block, (B, H, K, V)."""
    outputs, starts = [], []
    for q, k, v, decay in zip(*(x.split(block, dim=2) for x in (queries, keys, values, log_decay)), strict=True):
        starts.append(total)
        output, total = mix(q, k, v, decay, total, size)
        outputs.append(output)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2), total, starts


def _composition(*arguments: Any) -> tuple[Tensor, Tensor]:
    return mix_blocks(*arguments)[:2]


class CausalGatedLinear(torch.autograd.Function):
    """(queries, keys, values, log decays, summary before, block, chunk) -> (output, summary after)."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor, total: Tensor, block: int, size: int
    ) -> tuple[Tensor, Tensor]:
        output, after, starts = mix_blocks(queries, keys, values, log_decay, total, block, size)
        keep(ctx, (queries, keys, values, log_decay, total, block, size), after, *starts[1:])
        ctx.set_materialize_grads(False)
        return output, after

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_output: Tensor | None, d_after: Tensor | None) -> tuple[Tensor | None, ...]:
        (*inputs, total, block, size), (after, *starts) = kept(ctx)
        d_output = torch.zeros_like(inputs[2]) if d_output is None else d_output
        d_total = torch.zeros_like(total) if d_after is None else d_after
        # What the summary after the last position owes to its decays, which all fade it.
        d_height = (after * d_total).sum(dim=-1)[:, :, None]
        if inputs[3].shape[-1] == 1:
            d_height = d_height.sum(dim=-1, keepdim=True)
        pieces = list(zip(*(x.split(block, dim=2) for x in (*inputs, d_output)), [total, *starts], strict=True))
        found = []
        for *piece, d_piece, start in reversed(pieces):
            *gradients, d_total, d_height = _block_backward(tuple(piece), d_piece, start, d_total, d_height, size)
            found.append(gradients)
        made = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=2) for parts in zip(*reversed(found), strict=True))
        return *made, d_total, None, None


def _block_backward(
    inputs: Inputs, d_output: Tensor, start: Tensor, d_after: Tensor, d_height: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the four inputs of a block and of the summary before it, from those of its outputs and of the summary after it; and of
    the running sum of log decays (B, H, 1, .), taken up from what comes after the block and handed on to what comes before."""
    length = inputs[0].shape[2]
    queries, keys, values, height = (by_chunk(x, size) for x in inputs)
    d_output, height = by_chunk(d_output, size), height.cumsum(dim=-2)
    end = height[..., -1:, :]
    rising, falling, fading = height.exp(), (end - height).exp(), end.exp().mT
    before, _ = summaries(keys, values, height, start)

    d_sums, d_before = (queries * rising).mT @ d_output, []
    for added, kept_share in zip(reversed(d_sums.unbind(2)), reversed(fading.unbind(2)), strict=True):
        d_before.append(d_after)
        d_after = kept_share * d_after + added
    d_states = torch.stack(d_before[::-1], dim=2)  # of the summary after each chunk

    d_weights = (d_output @ values.mT).tril_()
    d_values = weights(queries, keys, height).mT @ d_output + (keys * falling) @ d_states
    d_queries, d_keys = _pair_gradients(d_weights, queries, keys, height)
    d_queries += (d_output @ before.mT) * rising
    d_keys += (values @ d_states.mT) * falling

    d_queries, d_keys, d_values = (x.flatten(2, 3)[:, :, :length] for x in (d_queries, d_keys, d_values))
    of_height = inputs[0] * d_queries - inputs[1] * d_keys
    if inputs[3].shape[-1] == 1:
        of_height = of_height.sum(dim=-1, keepdim=True)
    d_decay = of_height.flip(2).cumsum(dim=2).flip(2) + d_height
    return d_queries, d_keys, d_values, d_decay, d_after, d_decay[:, :, :1]


def _pair_gradients(d_weights: Tensor, queries: Tensor, keys: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of queries and keys (B, H, G, C, K) from those of the weights inside their chunk (B, H, G, C, C), zero for j > i."""
    if height.shape[-1] == 1:
        d_weights = d_weights * fading_between(height)
        return d_weights @ keys, d_weights.mT @ queries
    itself = d_weights.diagonal(dim1=-2, dim2=-1)[..., None]
    d_queries, d_keys = itself * keys, itself * queries
    for right, left, factors in halves(queries, keys, height):
        pieces, half = right.shape[-3], right.shape[-2]
        across = d_weights.unflatten(-1, (pieces, 2, half)).unflatten(-4, (pieces, 2, half))[..., 1, :, :, 0, :]
        across = across.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)  # each piece with itself: (..., C / 2s, s, s)
        d_queries.unflatten(-2, (pieces, 2, half))[..., 1, :, :].add_((across @ left) * factors[0])
        d_keys.unflatten(-2, (pieces, 2, half))[..., 0, :, :].add_((across.mT @ right) * factors[1])
    return d_queries, d_keys
