"""A block of causal linear attention, chunk by chunk, forward and backward: a C x C triangle inside each chunk, a summary before it.

Axes: E batch and heads together, P positions of a block, G chunks of a block, C chunk length, J = K + 1 (values and a one), M features.
A summary is (J, M) here: matmuls with wide rows are the faster ones.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.numerics import LOG2E

FEW_CHUNKS = 16  # of a block, up to which a CPU adds one after another


class Chunks(NamedTuple):
    """What both passes need of a block: how much of each key reaches where."""

    decay: Tensor  # (E, G, C, C)  key j of a chunk as its query i sees it; zero above the diagonal
    fold: Tensor  # (E, G, C, 1)   key j at the end of its chunk
    reach: Tensor  # (E, G, C, 1)  what came before the chunk, as query i sees it
    marks: Tensor  # (E, G + 1)    the running maximum before each chunk and after the last


def measure(height: Tensor, maximum: Tensor, before: Tensor, chunk: int) -> Chunks:
    """Factors of a block from its keys' heights (E, P), their running maximum (E, P) and the one before the block (E, 1)."""
    height, maximum = height.unflatten(1, (-1, chunk)), maximum.unflatten(1, (-1, chunk))
    marks = torch.cat((before, maximum[..., -1]), dim=1)  # (E, G + 1)
    decay = lower(height[:, :, None, :] - maximum[..., None])
    return Chunks(decay, (height - marks[:, 1:, None]).exp_()[..., None], (marks[:, :-1, None] - maximum).exp_()[..., None], marks)


def mix(q: Tensor, k: Tensor, v: Tensor, state: Tensor, chunks: Chunks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (E, P, M), values (E, P, J), the state before (E, J, M) -> what queries read (E, P, J), the state after, those before each
    chunk (E G, J, M), and the scores inside (E G, C, C)."""
    states, last = summaries(k, v, state, chunks)
    scores = decayed(q, k, chunks)
    q, v = by_chunk(chunks, q, v)
    mixed = torch.bmm(q, states.mT).mul_(chunks.reach.flatten(0, 1)).baddbmm_(scores, v)
    return mixed.view(len(state), -1, v.shape[-1]), last, states, scores


def unmix(
    q: Tensor, k: Tensor, v: Tensor, states: Tensor, scores: Tensor, chunks: Chunks, down: Tensor, d_after: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`mix` for queries, keys, values (E, P, K) and the state before, from those of its reads and of the last state.

    With A the decayed scores and g = ``down``: dA = tril(g v^T), dq = dA k + g S, dk = dA^T q + v dS, dv = A^T g + k dS^T, and a state's
    gradient gathers g^T q.
    """
    entries = len(d_after)
    q, k, v, down = by_chunk(chunks, q, k, v, down)
    decay, reach, fold = (factor.flatten(0, 1) for factor in (chunks.decay, chunks.reach, chunks.fold))
    far = down * reach
    d_scores = torch.bmm(down, v.mT).mul_(decay)
    d_chunks, d_before = carried(d_after, torch.bmm(far.mT, q).unflatten(0, (entries, -1)), chunks.marks, back=True)
    d_chunks = d_chunks.flatten(0, 1)

    dq = torch.bmm(far, states).baddbmm_(d_scores, k)
    dk = torch.bmm(v * fold, d_chunks).baddbmm_(d_scores.mT, q)
    dv = torch.bmm(k, d_chunks[:, :-1].mT).mul_(fold).baddbmm_(scores.mT, down[..., :-1])
    return *(x.view(entries, -1, x.shape[-1]) for x in (dq, dk, dv)), d_before  # type: ignore[return-value]


def summaries(k: Tensor, v: Tensor, state: Tensor, chunks: Chunks) -> tuple[Tensor, Tensor]:
    """Features (E, P, M), values (E, P, J), the state before (E, J, M) -> those before each chunk (E G, J, M), and the one after."""
    k, v = by_chunk(chunks, k, v)
    sums = torch.bmm((v * chunks.fold.flatten(0, 1)).mT, k)
    states, last = carried(state, sums.unflatten(0, (len(state), -1)), chunks.marks)
    return states.flatten(0, 1), last


def decayed(q: Tensor, k: Tensor, chunks: Chunks) -> Tensor:
    """Features (E, P, M) twice -> the scores (E G, C, C) of each chunk's queries for its own keys, zero above the diagonal."""
    q, k = by_chunk(chunks, q, k)
    return torch.bmm(q, k.mT).mul_(chunks.decay.flatten(0, 1))


def carried(first: Tensor, added: Tensor, marks: Tensor, *, back: bool = False) -> tuple[Tensor, Tensor]:
    """Running sums over the chunks of a block, each rescaled from mark to mark.

    Args:
        first: (E, J, M), the state before the block; ``back``: the gradient of the one after it.
        added: (E, G, J, M), what each chunk adds.
        marks: (E, G + 1).
        back: from the last chunk to the first, as gradients go.

    Returns:
        What has come up to each chunk, without its own (E, G, J, M), and everything (E, J, M).
    """
    count = added.shape[1]
    if added.device.type != "cpu" or count > FEW_CHUNKS:  # many small operations take longer than a product too many
        parts = torch.cat((added, first[:, None]) if back else (first[:, None], added), dim=1)
        carry = lower(marks[:, None, :] - marks[..., None])
        sums = torch.bmm(carry.mT if back else carry, parts.flatten(2)).view_as(parts)
        return (sums[:, 1:].contiguous(), sums[:, 0]) if back else (sums[:, :-1].contiguous(), sums[:, -1])
    scale = (marks[:, :-1] - marks[:, 1:]).exp_()[..., None, None]
    so_far = torch.empty_like(added)
    order = range(count - 1, -1, -1) if back else range(count)
    so_far[:, order[0]].copy_(first)
    for here, following in itertools.pairwise(order):
        torch.addcmul(added[:, here], so_far[:, here], scale[:, here], out=so_far[:, following])
    last = order[-1]
    return so_far, torch.addcmul(added[:, last], so_far[:, last], scale[:, last])


def lower(exponents: Tensor) -> Tensor:
    """exp on and below the diagonal, zero above, where it may overflow: what is there is written over, not multiplied."""
    return exponents.mul_(LOG2E).exp2_().tril_()


def by_chunk(chunks: Chunks, *tensors: Tensor) -> list[Tensor]:
    """Each (E, P, .) as (E G, C, .)."""
    return [x.reshape(-1, chunks.decay.shape[-1], x.shape[-1]) for x in tensors]
