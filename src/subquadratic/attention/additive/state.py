"""What softmax pooling remembers of the past: (maximum logit, sum of weights, weighted sum), merged as in online softmax.

Axes: B batch, H heads, K head width.
"""

import torch
from torch import Tensor

from ...core.numerics import EMPTY
from ...core.state import State, state


@state
class PoolState(State):
    """Summary of the tokens seen so far; float32 (float64 for float64 inputs)."""

    maximum: Tensor  # (B, H, 1)
    weight: Tensor  # (B, H, 1)     sum of exp(logit - maximum)
    total: Tensor  # (B, H, K)     sum of exp(logit - maximum) * value


def empty_pool(batch: int, heads: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> PoolState:
    """The summary of no tokens."""
    zeros = torch.zeros(batch, heads, width + 1, device=device, dtype=dtype)
    return PoolState(torch.full_like(zeros[..., :1], EMPTY), zeros[..., :1].clone(), zeros[..., 1:].clone())
