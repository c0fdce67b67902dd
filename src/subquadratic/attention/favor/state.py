"""What linear attention remembers of the past: sums over all keys, relative to a maximum of their exponents.

Axes: B batch, H heads, S length (keys), K head width, M features.
"""

import dataclasses

import torch
from torch import Tensor

from ...core.numerics import EMPTY
from ...core.state import State, state


@state
class FeatureState(State):
    """Summary of the keys and values seen so far; float32 (float64 for float64 inputs)."""

    total: Tensor  # (B, H, M, K)   sum of exp(log k - maximum) v^T
    weight: Tensor  # (B, H, M)     sum of exp(log k - maximum)
    maximum: Tensor  # (B, H, 1)    causal: one for all features; (B, H, M) for a summary made in one go


@state
class EpsilonState(FeatureState):
    """A summary with what a feature epsilon reads, which gives each value the same weight whatever its key."""

    values: Tensor  # (B, H, K)     sum of v
    count: Tensor  # (B, H, 1)      number of keys


def empty_features(
    batch: int, heads: int, features: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> FeatureState:
    """The summary of no tokens."""
    total = torch.zeros(batch, heads, features, width, device=device, dtype=dtype)
    weight = torch.zeros(batch, heads, features, device=device, dtype=dtype)
    return FeatureState(total, weight, torch.full((batch, heads, 1), EMPTY, device=device, dtype=dtype))


def empty_epsilon(
    batch: int, heads: int, features: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> EpsilonState:
    """The summary of no tokens, for a feature epsilon."""
    empty = empty_features(batch, heads, features, width, device=device, dtype=dtype)
    values, count = torch.zeros(batch, heads, width, device=device, dtype=dtype), torch.zeros(batch, heads, 1, device=device, dtype=dtype)
    return EpsilonState(empty.total, empty.weight, empty.maximum, values, count)


def unscaled(state: FeatureState) -> FeatureState:
    """A state of features that are no exponents: its sums are relative to nothing, whatever stands in the place of a maximum. It is EMPTY
    in a new state and stays so token by token, and as a maximum it would scale away all that came before a piece."""
    return dataclasses.replace(state, maximum=torch.zeros_like(state.maximum))


def with_one_maximum(summary: FeatureState) -> FeatureState:
    """A summary made in one go as one that causal attention goes on from: relative to the largest of its maxima."""
    maximum = summary.maximum.amax(dim=-1, keepdim=True)
    shrink = (summary.maximum - maximum).exp()  # (B, H, M), or (B, H, 1) of what was causal already
    return FeatureState(summary.total * shrink[..., None], summary.weight * shrink, maximum)


def with_sums(summary: FeatureState, values: Tensor, mask: Tensor | None = None) -> EpsilonState:
    """A summary with the sum and number of the values (B, H, S, K) that it was made of, for a feature epsilon; ``mask`` (B, S)."""
    count = values.new_full((*values.shape[:2], 1), values.shape[2])
    if mask is not None:
        values = values.masked_fill(~mask[:, None, :, None], 0.0)
        count = mask.sum(-1).to(values.dtype)[:, None, None].expand_as(count)
    return EpsilonState(summary.total, summary.weight, summary.maximum, values.sum(dim=-2), count)
