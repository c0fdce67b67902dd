"""FAVOR+ by PyTorch's operators alone: what compilers and every kind of derivative take.

Projections are times K^(-1/4) already, as the operations with a backward of their own are given them.

Axes: B batch, H heads, N length, S length (keys), K head width, M features, R rows of a state (documents, or B).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.packed import Chunk as Run
from .formula import FeatureState, causal_linear_attention, read_features, summarise_features


def exponents(x: Tensor, projection: Tensor) -> Tensor:
    """Logarithms of the positive softmax features of (B, H, N, K), without the constant 1 / sqrt(M): (B, H, N, M)."""
    return x @ projection.T - x.square().sum(dim=-1, keepdim=True) * (x.shape[-1] ** -0.5 / 2)


def causal_by_formula(
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
    """As ``CausalFavor`` of `favor_causal.py`; the last of what it gives is a constant for autograd."""
    if projection is not None:
        queries, keys = exponents(queries, projection), exponents(keys, projection)
        queries = (queries - queries.detach().amax(dim=-1, keepdim=True)).exp()
    packed = any(piece.rows != slice(None) for piece in pieces)
    none = total.new_zeros(total[..., 0, :].shape), weight.new_zeros(weight[..., :1].shape)
    whole = (total, weight, maximum, *none)
    rows = [tuple(x[row : row + 1] for x in whole) for row in range(len(total))] if packed else [whole]
    states, outputs = [FeatureState(*row) for row in rows], []
    for piece in pieces:
        here, at = (..., slice(piece.start, piece.stop), slice(None)), piece.rows.start if packed else 0
        output, states[at] = causal_linear_attention(
            queries[here], keys[here], values[here], states[at],
            mask=None if live is None else live[:, piece.start : piece.stop], exponents=projection is not None, chunk=chunk,
        )  # fmt: skip
        outputs.append(output)
    total, weight, maximum = (torch.cat([getattr(state, name) for state in states]) for name in ("total", "weight", "maximum"))
    return torch.cat(outputs, dim=-2), total, weight, maximum.detach()


def summarise_by_formula(keys: Tensor, values: Tensor, projection: Tensor, live: Tensor | None, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As ``Summarise`` of `favor_summary.py`."""
    found = summarise_features(exponents(keys, projection), values, live)
    return found.total, found.weight, found.maximum


def read_by_formula(queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, maximum: Tensor, *_: Any) -> Tensor:
    """As ``Read`` of `favor_summary.py`."""
    none = total[..., 0, :], weight[..., :1]  # which only additive epsilons read
    return read_features(exponents(queries, projection), FeatureState(total, weight, maximum, *none))
