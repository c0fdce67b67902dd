"""The length of vectors, with derivatives of every order where there is none to point along: at zero, which padding is."""

import torch
from torch import Tensor


def vector_length(x: Tensor, *, least: float) -> Tensor:
    """Euclidean lengths (..., 1) of float32 or float64 (..., D), at least ``least``; below it they are constant.

    ``x.norm().clamp_min(least)`` has these values and first derivatives, but NaN for second ones at zero: PyTorch differentiates the
    gradient's division by the length, which is 0 / 0 there even where the clamp lets no gradient through.
    """
    smallest = max(least**2, torch.finfo(x.dtype).tiny)
    return x.square().sum(dim=-1, keepdim=True).clamp_min(smallest).sqrt()
