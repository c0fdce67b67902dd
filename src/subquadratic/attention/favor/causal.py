"""Causal FAVOR+ with a backward of its own: block by block, keeping only the summary before each chunk and the scores inside it, or, of a
long sequence, only the summary before each block.

The maths of `linear_attention.py` from queries, keys and the projection, so that features need not be kept: a block's are made when it
is read and made again in backward, except those of a short sequence, which take little memory. Per position of a head 2 M K numbers meet
in each of 4 matmuls forward and 8 backward (6 of a short sequence), and a C x C triangle comes on top; one more and a triangle more
backward where only blocks' summaries were kept.

Row scales cancel in the ratio, so features are relative to the largest of their row. What that leaves out of a key's goes into small
tensors (the C x C decays, the values) and never over the features: its height, the logarithm of its largest feature, of which the running
maximum is taken. The projection has log2(e) in it, since a CPU takes a third of the time for 2^x that it takes for e^x.

Axes: E batch and heads together, P positions of a block, G chunks of a block, C chunk length, K head width, J = K + 1 (values and a one,
so that numerator and normaliser are one matmul), M features. A summary is (J, M) here: matmuls with wide rows are the faster ones.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.layout import positions_first
from ...core.numerics import LOG2E, NOTHING, no_autocast
from ...core.packed import Chunk as Run
from ...kernels.derivatives import differentiable, keep, kept
from .composition import causal_by_formula

FEW_CHUNKS = 16  # of a block, up to which a CPU adds one after another
MOST_KEPT = 1 << 26  # numbers (256 MB) that the summaries of all chunks may be; beyond, blocks' are kept, and the others made again
MOST_FEATURES = 1 << 23  # numbers (32 MB) that features of queries and keys may be; beyond, they are made again


class Chunks(NamedTuple):
    """What both passes need of a block: how much of each key reaches where."""

    decay: Tensor  # (E, G, C, C)  key j of a chunk as its query i sees it; zero above the diagonal
    fold: Tensor  # (E, G, C, 1)   key j at the end of its chunk
    reach: Tensor  # (E, G, C, 1)  what came before the chunk, as query i sees it
    marks: Tensor  # (E, G + 1)    the running maximum before each chunk and after the last


class Kept(NamedTuple):
    """What backward needs of a block."""

    query_top: Tensor  # (E, P, 1)  the largest exponents to base 2
    key_top: Tensor  # (E, P, 1)
    height: Tensor  # (E, P)        of keys
    maximum: Tensor  # (E, P)       of heights, running
    marks: Tensor  # (E, G + 1)     as in Chunks
    normaliser: Tensor  # (E, P, 1)
    states: Tensor  # (E G, J, M)   before each chunk; without scores (E, J, M), before the block
    scores: Tensor | None  # (E G, C, C)
    query_features: Tensor | None  # (E, P, M)  as they are computed from a projection
    key_features: Tensor | None  # (E, P, M)


def measure(height: Tensor, maximum: Tensor, before: Tensor, chunk: int) -> Chunks:
    """Factors of a block from its keys' heights (E, P), their running maximum (E, P) and the one before the block (E, 1)."""
    height, maximum = height.unflatten(1, (-1, chunk)), maximum.unflatten(1, (-1, chunk))
    marks = torch.cat((before, maximum[..., -1]), dim=1)  # (E, G + 1)
    decay = lower(height[:, :, None, :] - maximum[..., None])
    return Chunks(decay, (height - marks[:, 1:, None]).exp_()[..., None], (marks[:, :-1, None] - maximum).exp_()[..., None], marks)


def lower(exponents: Tensor) -> Tensor:
    """exp on and below the diagonal, zero above, where it may overflow: what is there is written over, not multiplied."""
    return exponents.mul_(LOG2E).exp2_().tril_()


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


def features(x: Tensor, table: Tensor | None, top: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Features relative to the largest of their row, and what was taken from their exponents.

    Args:
        x: (E, P, K); without a table features (E, P, M), which stay as they are.
        table: (M, K), the projection times K^(-1/4) log2(e).
        top: (E, P, 1), the largest exponents to base 2; None: not known yet.

    Returns:
        (E, P, M) and (E, P, 1).
    """
    if table is None:
        return x, x.new_zeros(*x.shape[:2], 1)
    exponents = x @ table.T
    top = exponents.amax(dim=-1, keepdim=True) if top is None else top
    return exponents.sub_(top).exp2_(), top


def key_height(keys: Tensor, top: Tensor) -> Tensor:
    """Logarithm of the largest feature of keys (E, P, K), from the largest exponent to base 2 (E, P, 1): (E, P)."""
    return top[..., 0] / LOG2E - half_square(keys)


def half_square(keys: Tensor) -> Tensor:
    """What the logarithms of a key's features have in common: (E, P, K) -> (E, P), half the squared norm of keys as they are projected."""
    return torch.linalg.vecdot(keys, keys).mul_(keys.shape[-1] ** -0.5 / 2)


class CausalFavor(torch.autograd.Function):
    """(queries, keys, values, projection, live, total, weight, maximum, pieces, chunk) -> (output, total, weight, maximum).

    Args of ``apply``:
        queries, keys: (B, H, N, K), or features (B, H, N, M) without a projection.
        values: (B, H, N, K), zero at padding.
        projection: (M, K) times K^(-1/4); None: queries and keys are features already.
        live: (B, N) bool, real tokens; None: all.
        total, weight, maximum: the state before, (B, H, M, K), (B, H, M), (B, H, 1); B is the number of documents for packed ones.
        pieces: runs of positions in order, at most a block long, with their rows of the state.
        chunk: C.

    All in one dtype, float32 or float64.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        projection: Tensor | None,
        live: Tensor | None,
        total: Tensor,
        weight: Tensor,
        maximum: Tensor,
        pieces: Sequence[Run],
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, heads, length, width = values.shape
        again = any(ctx.needs_input_grad)
        output = values.new_empty(batch, length, heads, width).transpose(1, 2)
        after, marks = torch.cat((total.mT, weight[..., None, :]), dim=-2), maximum.clone()
        every = sum(-(-(stop - start) // chunk) for _, start, stop, _ in pieces) * batch * after[0].numel() <= MOST_KEPT
        short = projection is not None and 2 * values[..., 0].numel() * len(projection) <= MOST_FEATURES
        table = None if projection is None else projection * LOG2E
        made: list[Tensor | None] = []
        for rows, start, stop, _ in pieces:
            state, before = after[rows].flatten(0, 1), marks[rows].flatten(0, 1)
            q, k, v = (block(tensor, start, stop, chunk) for tensor in (queries, keys, values))
            raw, (k, k_top) = k, features(k, table)
            height = hide(k_top[..., 0] if table is None else key_height(raw, k_top), live, start, stop, heads)
            running = torch.zeros_like(height) if table is None else torch.maximum(height.cummax(dim=1).values, before)
            q, q_top = features(q, table)
            chunks = measure(height, running, before, min(chunk, k.shape[1]))
            mixed, last, states, scores = mix(q, k, with_one(v), state, chunks)
            below = guarded(mixed[..., -1:])
            output[:, :, start:stop] = (mixed[..., :-1] / below)[:, : stop - start].unflatten(0, (-1, heads))
            if again:
                large = (states, scores) if every else (state.clone(), None)
                both = (q, k) if short else (None, None)
                made += Kept(q_top, k_top, height, running, chunks.marks, below.clone(), *large, *both)
            after[rows] = last.unflatten(0, (-1, heads))
            marks[rows] = running[:, -1:].unflatten(0, (-1, heads))
        if again:
            keep(ctx, (queries, keys, values, projection, live, total, weight, maximum, pieces, chunk), output, *made)
        ctx.mark_non_differentiable(marks)
        ctx.set_materialize_grads(False)
        return output, after[..., :-1, :].mT.contiguous(), after[..., -1, :].contiguous(), marks

    @staticmethod
    @differentiable(causal_by_formula)
    def backward(ctx: Any, d_output: Tensor | None, d_total: Tensor | None, d_weight: Tensor | None, _: Any) -> tuple[Any, ...]:
        given, made = kept(ctx)
        with no_autocast(given[0]):  # backward may run inside autocast, which forward left
            return CausalFavor._backward(given, made, d_output, d_total, d_weight)

    @staticmethod
    def _backward(
        given: list[Any], made: list[Any], d_output: Tensor | None, d_total: Tensor | None, d_weight: Tensor | None
    ) -> tuple[Any, ...]:
        queries, keys, values, projection, _, total, _, _, pieces, chunk = given
        output, *made = made
        table = None if projection is None else projection * LOG2E
        heads, width, each = values.shape[1], values.shape[3], len(Kept._fields)
        d_queries, d_keys, d_values = (positions_first(tensor) for tensor in (queries, keys, values))
        count = keys.shape[3] if projection is None else len(projection)
        d_state = joined(d_total, d_weight, (len(total), heads, width + 1, count), values)
        d_output = torch.zeros_like(output) if d_output is None else d_output
        for index, (rows, start, stop, _) in reversed(list(enumerate(pieces))):
            past = Kept(*made[index * each : (index + 1) * each])
            raw, v = block(keys, start, stop, chunk), with_one(block(values, start, stop, chunk))
            q, k = past.query_features, past.key_features
            if q is None or k is None:
                q, k = features(block(queries, start, stop, chunk), table, past.query_top)[0], features(raw, table, past.key_top)[0]
            chunks = measure(past.height, past.maximum, past.marks[:, :1], min(chunk, k.shape[1]))
            states, scores = past.states, past.scores
            if scores is None:
                states, scores = summaries(k, v, states, chunks)[0], decayed(q, k, chunks)
            y, dy = (block(tensor, start, stop, chunk) for tensor in (output, d_output))
            down = above_ratio(dy, y, past.normaliser)
            dq, dk, dv, d_before = unmix(q, k, v, states, scores, chunks, down, d_state[rows].flatten(0, 1))
            d_state[rows] = d_before.unflatten(0, (-1, heads))
            if projection is not None:
                dq = dq.mul_(q) @ projection
                dk = dk.mul_(k)
                dk = (dk @ projection).sub_(dk.sum(dim=-1, keepdim=True).mul_(raw.shape[-1] ** -0.5) * raw)
            for whole, part in ((d_queries, dq), (d_keys, dk), (d_values, dv)):
                whole[:, :, start:stop] = part[:, : stop - start].unflatten(0, (-1, heads))
        return d_queries, d_keys, d_values, None, None, d_state[..., :-1, :].mT, d_state[..., -1, :], None, None, None


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


def by_chunk(chunks: Chunks, *tensors: Tensor) -> list[Tensor]:
    """Each (E, P, .) as (E G, C, .)."""
    return [x.reshape(-1, chunks.decay.shape[-1], x.shape[-1]) for x in tensors]


def block(tensor: Tensor, start: int, stop: int, chunk: int) -> Tensor:
    """Positions start to stop of (B, H, N, X) as (E, P, X), P the next multiple of the chunk once there is more than one."""
    part = tensor[:, :, start:stop].flatten(0, 1)
    missing = -(stop - start) % min(chunk, stop - start)
    return F.pad(part, (0, 0, 0, missing)) if missing else part  # padding by nothing is a copy


def hide(height: Tensor, live: Tensor | None, start: int, stop: int, heads: int) -> Tensor:
    """-inf where a key is no token: padding, and what fills up the last chunk."""
    if live is not None:
        dead = ~live[:, None, start:stop].expand(-1, heads, -1).flatten(0, 1)
        height[:, : stop - start].masked_fill_(dead, -torch.inf)
    if stop - start < height.shape[1]:
        height[:, stop - start :] = -torch.inf
    return height


def with_one(values: Tensor) -> Tensor:
    """(E, P, K) -> (E, P, K + 1), a one at the end."""
    return F.pad(values, (0, 1), value=1.0)


def guarded(normaliser: Tensor) -> Tensor:
    """Infinite where there is no key, so that what is divided by it becomes zero, gradient too."""
    return normaliser.masked_fill_(normaliser.abs() <= NOTHING, torch.inf)


def above_ratio(gradient: Tensor, output: Tensor, normaliser: Tensor) -> Tensor:
    """From the gradient of a ratio (E, P, K), the ratio and what it was divided by (E, P, 1): of both parts, (E, P, K + 1)."""
    return torch.cat((gradient, torch.linalg.vecdot(gradient, output).neg_()[..., None]), dim=-1).div_(normaliser)


def joined(total: Tensor | None, weight: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Gradients of a summary's two halves, (..., M, K) and (..., M), as one (..., J, M); zeros for those that nobody asked for."""
    both = like.new_zeros(shape)
    if total is not None:
        both[..., :-1, :] = total.mT
    if weight is not None:
        both[..., -1, :] = weight
    return both
