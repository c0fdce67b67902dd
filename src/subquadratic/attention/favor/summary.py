"""Bidirectional FAVOR+ with a backward of its own: keys and values folded into a summary, and queries that read it, block by block.

No more than a block of features exists at a time; backward makes them again. The summary is stabilised feature by feature with its largest
exponent so far, so that no normaliser can underflow, and rescaled when a block brings a larger one. Keys' exponents are to base 2, which
takes a CPU a third of the time. Additive terms of an exponent (half the squared norm of a key, a feature's maximum) ride in the matmul as
columns of its own, which saves passes over the features.

Axes: E batch and heads together, P positions of a block, K head width, J = K + 1 (values and a one), M features. A summary is (J, M)
here: matmuls with wide rows are the faster ones.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.layout import positions_first
from ...core.numerics import EMPTY, LOG2E, no_autocast
from ...kernels.derivatives import differentiable, keep, kept
from .blocks import above_ratio, block, guarded, half_square, joined, with_one
from .features import exponents_of
from .formula import read_features, summarise_features
from .state import FeatureState


def summarise_by_formula(keys: Tensor, values: Tensor, projection: Tensor, mask: Tensor | None, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As :class:`Summarise`, for every kind of derivative."""
    found = summarise_features(exponents_of(keys, projection), values, mask)
    return found.total, found.weight, found.maximum


class Summarise(torch.autograd.Function):
    """(keys, values, projection, mask, size) -> (total, weight, maximum), as in ``FeatureState`` with a maximum for each feature.

    Args of ``apply``:
        keys, values: (B, H, S, K), zero at padding.
        projection: (M, K) times K^(-1/4).
        mask: (B, S) bool, real tokens; None: all.
        size: positions of a block.
    """

    @staticmethod
    def forward(
        ctx: Any, keys: Tensor, values: Tensor, projection: Tensor, mask: Tensor | None, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, heads, length, width = values.shape
        maximum = values.new_full((batch * heads, projection.shape[0]), EMPTY)
        summary = values.new_zeros(batch * heads, width + 1, projection.shape[0])
        table = with_one(projection) * LOG2E
        for start in range(0, length, size):
            k, v = (block(x, start, min(start + size, length), size) for x in (keys, values))
            exponents = torch.cat((k, key_offset(k, mask, start, heads)), dim=-1) @ table.T
            larger = torch.maximum(maximum, exponents.amax(dim=1))
            summary.mul_((maximum - larger).exp2_()[:, None])
            summary.baddbmm_(with_one(v).mT, exponents.sub_(larger[:, None]).exp2_())
            maximum = larger
        keep(ctx, (keys, values, projection, mask, size), maximum)
        summary, maximum = (x.unflatten(0, (batch, heads)) for x in (summary, maximum / LOG2E))
        ctx.mark_non_differentiable(maximum)
        ctx.set_materialize_grads(False)
        return summary[..., :-1, :].mT.contiguous(), summary[..., -1, :].contiguous(), maximum

    @staticmethod
    @differentiable(summarise_by_formula)
    def backward(ctx: Any, d_total: Tensor | None, d_weight: Tensor | None, _: Any) -> tuple[Any, ...]:
        (keys, values, projection, mask, size), (maximum,) = kept(ctx)
        batch, heads, length, width = keys.shape
        d_summary = joined(d_total, d_weight, (batch, heads, values.shape[-1] + 1, maximum.shape[-1]), values).flatten(0, 1)
        d_keys, d_values = positions_first(keys), positions_first(values)
        table = with_one(projection)
        shifted = torch.cat(((table * LOG2E).expand(len(maximum), -1, -1), -maximum[..., None]), dim=-1)  # (E, M, K + 2)
        with no_autocast(keys):
            for start in range(0, length, size):
                stop = min(start + size, length)
                k, v = (block(x, start, stop, size) for x in (keys, values))
                features = torch.bmm(with_one(torch.cat((k, key_offset(k, mask, start, heads)), dim=-1)), shifted.mT).exp2_()
                dv = torch.bmm(features, d_summary[:, :-1].mT)
                pulled = torch.bmm(with_one(v), d_summary).mul_(features) @ table  # (E, P, K + 1)
                dk = pulled[..., :-1] - pulled[..., -1:].mul(width**-0.5) * k
                d_keys[:, :, start:stop], d_values[:, :, start:stop] = (x.unflatten(0, (-1, heads)) for x in (dk, dv))
        return d_keys, d_values, None, None, None


def read_by_formula(queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, maximum: Tensor, *_: Any) -> Tensor:
    """As :class:`Read`, for every kind of derivative."""
    return read_features(exponents_of(queries, projection), FeatureState(total, weight, maximum))


class Read(torch.autograd.Function):
    """(queries, projection, total, weight, maximum, size) -> output (B, H, N, K); zero where the summary holds no key.

    Args of ``apply``:
        queries: (B, H, N, K).
        projection: (M, K) times K^(-1/4).
        total, weight, maximum: a summary, (B, H, M, K), (B, H, M), and (B, H, M) or (B, H, 1).
        size: positions of a block.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, maximum: Tensor, size: int) -> Tensor:
        batch, heads, length, _ = queries.shape
        summary, table = _to_read(projection, total, weight, maximum)
        output = queries.new_empty(batch, length, heads, total.shape[-1]).transpose(1, 2)
        normaliser = queries.new_empty(batch, heads, length)
        for start in range(0, length, size):
            stop = min(start + size, length)
            mixed = torch.bmm(_query_features(queries, table, start, stop), summary.mT)
            below = guarded(mixed[..., -1:])
            output[:, :, start:stop] = (mixed[..., :-1] / below).unflatten(0, (-1, heads))
            normaliser[:, :, start:stop] = below[..., 0].unflatten(0, (-1, heads))
        keep(ctx, (queries, projection, total, weight, maximum, size), output, normaliser)
        return output

    @staticmethod
    @differentiable(read_by_formula)
    def backward(ctx: Any, d_output: Tensor) -> tuple[Any, ...]:
        (queries, projection, *state, size), (output, normaliser) = kept(ctx)
        summary, table = _to_read(projection, *state)
        heads, length = queries.shape[1:3]
        d_queries, d_summary = positions_first(queries), torch.zeros_like(summary)
        with no_autocast(queries):
            for start in range(0, length, size):
                stop = min(start + size, length)
                features = _query_features(queries, table, start, stop)
                y, dy, below = (x[:, :, start:stop].flatten(0, 1) for x in (output, d_output, normaliser))
                down = above_ratio(dy, y, below[..., None])
                d_summary.baddbmm_(down.mT, features)
                d_queries[:, :, start:stop] = (torch.bmm(down, summary).mul_(features) @ projection).unflatten(0, (-1, heads))
        d_summary = d_summary.unflatten(0, (-1, heads))
        return d_queries, None, d_summary[..., :-1, :].mT, d_summary[..., -1, :], None, None


def key_offset(keys: Tensor, mask: Tensor | None, start: int, heads: int) -> Tensor:
    """What is added to every exponent of a key, (E, P, 1): minus half its squared norm; for padding so little that exp is zero."""
    offset = half_square(keys)[..., None].neg_()
    if mask is not None:
        missing = ~mask[:, None, start : start + keys.shape[1]].expand(-1, heads, -1).flatten(0, 1)
        offset.masked_fill_(missing[..., None], 2 * EMPTY)
    return offset


def _to_read(projection: Tensor, total: Tensor, weight: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
    """The summary (E, J, M), and (E, M, K + 1): the projection, and each feature's maximum as a column."""
    summary = torch.cat((total.mT, weight[..., None, :]), dim=-2).flatten(0, 1)
    maximum = maximum.expand_as(weight).flatten(0, 1)
    return summary, torch.cat((projection.expand(len(maximum), -1, -1), maximum[..., None]), dim=-1)


def _query_features(queries: Tensor, table: Tensor, start: int, stop: int) -> Tensor:
    """(E, P, M): a row's scale cancels in the ratio, so it may be a softmax."""
    return torch.softmax(torch.bmm(with_one(queries[:, :, start:stop].flatten(0, 1)), table.mT), dim=-1)
