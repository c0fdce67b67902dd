"""Causal FAVOR+ with a backward of its own: block by block, keeping only the summary before each chunk and the scores inside it, or, of a
long sequence, only the summary before each block.

The maths of `formula.py` from queries, keys and the projection, so that features need not be kept: a block's are made when it
is read and made again in backward, except those of a short sequence, which take little memory. Per position of a head 2 M K numbers meet
in each of 4 matmuls forward and 8 backward (6 of a short sequence), and a C x C triangle comes on top; one more and a triangle more
backward where only blocks' summaries were kept.

Row scales cancel in the ratio, so features are relative to the largest of their row. What that leaves out of a key's goes into small
tensors (the C x C decays, the values) and never over the features: its height, the logarithm of its largest feature, of which the running
maximum is taken. The projection has log2(e) in it, since a CPU takes a third of the time for 2^x that it takes for e^x.

Axes: E batch and heads together, P positions of a block, G chunks of a block, C chunk length, K head width, J = K + 1 (values and a one,
so that numerator and normaliser are one matmul), M features. A summary is (J, M) here: matmuls with wide rows are the faster ones.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.layout import positions_first
from ...core.numerics import LOG2E, no_autocast
from ...core.packed import Chunk as Run
from ...kernels.derivatives import differentiable, keep, kept
from .blocks import above_ratio, block, guarded, half_square, joined, with_one
from .chunks import decayed, measure, mix, summaries, unmix
from .features import exponents_of
from .formula import causal_linear_attention
from .state import FeatureState

MOST_KEPT = 1 << 26  # numbers (256 MB) that the summaries of all chunks may be; beyond, blocks' are kept, and the others made again
MOST_FEATURES = 1 << 23  # numbers (32 MB) that features of queries and keys may be; beyond, they are made again


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


def causal_by_formula(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    projection: Tensor | None,
    mask: Tensor | None,
    total: Tensor,
    weight: Tensor,
    maximum: Tensor,
    pieces: Sequence[Run],
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :class:`CausalFavor`, for every kind of derivative; the last of what it gives is a constant for autograd."""
    if projection is not None:
        queries, keys = exponents_of(queries, projection), exponents_of(keys, projection)
        queries = (queries - queries.detach().amax(dim=-1, keepdim=True)).exp()
    packed = any(piece.rows != slice(None) for piece in pieces)
    whole = (total, weight, maximum)
    rows = [tuple(x[row : row + 1] for x in whole) for row in range(len(total))] if packed else [whole]
    states, outputs = [FeatureState(*row) for row in rows], []
    for piece in pieces:
        here, at = (..., slice(piece.start, piece.stop), slice(None)), piece.rows.start if packed else 0
        output, states[at] = causal_linear_attention(
            queries[here], keys[here], values[here], states[at],
            mask=None if mask is None else mask[:, piece.start : piece.stop], exponents=projection is not None, chunk=chunk,
        )  # fmt: skip
        outputs.append(output)
    total, weight, maximum = (torch.cat([getattr(state, name) for state in states]) for name in ("total", "weight", "maximum"))
    return torch.cat(outputs, dim=-2), total, weight, maximum.detach()


class CausalFavor(torch.autograd.Function):
    """(queries, keys, values, projection, mask, total, weight, maximum, pieces, chunk) -> (output, total, weight, maximum).

    Args of ``apply``:
        queries, keys: (B, H, N, K), or features (B, H, N, M) without a projection.
        values: (B, H, N, K), zero at padding.
        projection: (M, K) times K^(-1/4); None: queries and keys are features already.
        mask: (B, N) bool, real tokens; None: all.
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
        mask: Tensor | None,
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
            height = hide(k_top[..., 0] if table is None else key_height(raw, k_top), mask, start, stop, heads)
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
            keep(ctx, (queries, keys, values, projection, mask, total, weight, maximum, pieces, chunk), output, *made)
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


def hide(height: Tensor, mask: Tensor | None, start: int, stop: int, heads: int) -> Tensor:
    """-inf where a key is no token: padding, and what fills up the last chunk."""
    if mask is not None:
        missing = ~mask[:, None, start:stop].expand(-1, heads, -1).flatten(0, 1)
        height[:, : stop - start].masked_fill_(missing, -torch.inf)
    if stop - start < height.shape[1]:
        height[:, stop - start :] = -torch.inf
    return height
