"""Where a Feedback Transformer's state is read.

Axes: B batch, M memories, C segment length, T places.
"""

import torch
from torch import Tensor

import subquadratic as sq


def read_places(config: sq.FeedbackTransformerConfig, seen: Tensor, name: str, tensor: Tensor) -> Tensor:
    """Which places (B, T) of a tensor of the state are read, (B,) of one without places. Of ``memory`` (B, M + C, ...) the last memories
    before the open segment and its own; of ``open`` (B, C, ...) the tokens that it has."""
    if name.endswith("seen"):
        return torch.ones_like(seen, dtype=torch.bool)
    places, inside = torch.arange(tensor.shape[1]), (seen % config.segment_length)[:, None]
    if name.endswith("open"):
        return places < inside
    assert name.endswith("memory")
    closed = seen[:, None] - inside
    return (places >= config.memory_length - closed) & (places < config.memory_length + inside)
