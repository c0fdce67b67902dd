"""What linear attention remembers of the past: sums over all keys, relative to a maximum of their exponents.

Axes: B batch, H heads, K head width, M features.
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
    values: Tensor  # (B, H, K)     sum of v, which an additive feature epsilon reads
    count: Tensor  # (B, H, 1)      number of keys


def empty_features(
    batch: int, heads: int, features: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> FeatureState:
    """The summary of no tokens."""
    zeros = torch.zeros(batch, heads, features, width + 1, device=device, dtype=dtype)
    maximum = torch.full((batch, heads, 1), EMPTY, device=device, dtype=dtype)
    return FeatureState(zeros[..., :-1].clone(), zeros[..., -1].clone(), maximum, zeros[..., 0, :-1].clone(), zeros[..., 0, -1:].clone())


def unscaled(state: FeatureState) -> FeatureState:
    """A state of features that are no exponents: its sums are relative to nothing, whatever stands in the place of a maximum. It is EMPTY
    in a new state and stays so token by token, and as a maximum it would scale away all that came before a piece."""
    return dataclasses.replace(state, maximum=torch.zeros_like(state.maximum))
