"""Gated linear attention chunk by chunk, by PyTorch's operators: what autograd, compilers and every kind of derivative follow.

Inside a chunk, with g the running sum of the log decays from its start, the weight of position j for position i is

    w_ij = sum_k q_ik k_jk exp(g_ik - g_jk),   j <= i

which a product of q exp(g) and k exp(-g) would overflow in float32 once a chunk forgets more than exp(88). Where all channels fade alike,
the exponential is one number a pair. Else the chunk is halved again and again: positions of a right half look at those of the left through
the border between the two, g_i - g_j = (g_i - g_border) + (g_border - g_j), and neither part is ever above zero. That is log2(C) products
of half the size each, and exact for any decay.

What goes from chunk to chunk is the summary: S' = diag(exp(g_end)) S + sum_j exp(g_end - g_j) k_j v_j^T.

Axes: B batch, H heads, N length, K width of queries and keys, V width of values, G chunks, C chunk length, s half of a piece.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.chunking import cut, missing, running_totals
from ...core.tracing import is_open


def by_chunk(x: Tensor, size: int) -> Tensor:
    """(B, H, N, X) as (B, H, G, C, X), the last chunk filled up with zeros: keys that weigh nothing, and a decay of one."""
    return cut(F.pad(x, (0, 0, 0, missing(x.shape[2], size))), size)


def mix(queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor, total: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, N, V) of (B, H, N, .) after the summary ``total`` (B, H, K, V), and the summary after the last position."""
    length = queries.shape[2]
    queries, keys, values, height = (by_chunk(x, size) for x in (queries, keys, values, log_decay))
    height = height.cumsum(dim=-2)
    before, after = summaries(keys, values, height, total)
    output = weights(queries, keys, height) @ values + (queries * height.exp()) @ before
    return output.flatten(2, 3)[:, :, :length], after


def summaries(keys: Tensor, values: Tensor, height: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """The summary before each chunk, (B, H, G, K, V), and the one after the last."""
    end = height[..., -1:, :]
    sums, fading = (keys * (end - height).exp()).mT @ values, end.exp().mT
    if is_open(sums.shape[2]):
        return running_totals(sums, fading, total)
    before = []
    for added, kept in zip(sums.unbind(2), fading.unbind(2), strict=True):
        before.append(total)
        total = kept * total + added
    return torch.stack(before, dim=2), total


def weights(queries: Tensor, keys: Tensor, height: Tensor) -> Tensor:
    """(B, H, G, C, C): w_ij, zero for j > i."""
    if height.shape[-1] == 1:
        return (queries @ keys.mT) * fading_between(height)
    found = (queries * keys).sum(dim=-1)[..., None, None]  # of pieces of one position
    for right, left, _ in halves(queries, keys, height):
        across = right @ left.mT
        (upper, lower), none = found.unflatten(-3, (-1, 2)).unbind(-3), torch.zeros_like(across)
        found = torch.cat((torch.cat((upper, none), dim=-1), torch.cat((across, lower), dim=-1)), dim=-2)
    return found.squeeze(-3)


def fading_between(height: Tensor) -> Tensor:
    """exp(g_i - g_j) for j <= i, else zero: (..., C, 1) -> (..., C, C)."""
    later = torch.ones(height.shape[-2], height.shape[-2], dtype=torch.bool, device=height.device).triu_(1)
    return (height - height.mT).masked_fill(later, -torch.inf).exp()


def halves(queries: Tensor, keys: Tensor, height: Tensor) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, Tensor]]]:
    """For pieces of 2, 4, ... C positions, (..., C / 2s, s, K) each: queries of the right halves and keys of the left, faded to the border
    between, and the two factors by which they fade."""
    half = 1
    while half < queries.shape[-2]:
        (_, right), (left, _), (first, second) = (x.unflatten(-2, (-1, 2, half)).unbind(-3) for x in (queries, keys, height))
        border = first[..., -1:, :]
        factors = (second - border).exp(), (border - first).exp()
        yield right * factors[0], left * factors[1], factors
        half *= 2
