"""How tensors of heads lie in memory.

Axes: B batch, H heads, N length, X width.
"""

import torch
from torch import Tensor


def dense_channels(x: Tensor) -> Tensor:
    """``x`` itself, or a copy, with the channels of a head next to each other, as the kernel wants them."""
    return x if x.stride(-1) == 1 else x.contiguous()


def positions_first(x: Tensor) -> Tensor:
    """Storage for (B, H, N, X), laid out (B, N, H, X) as the maps around it want it."""
    return torch.empty_like(x.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
