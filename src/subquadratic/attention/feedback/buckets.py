"""Relative distances in buckets, as in T5 (Raffel et al., arXiv 1910.10683, section 2.1): exact for near tokens, logarithmic for far
ones."""

import math

import torch
from torch import Tensor

from ...core.choices import check_buckets


def relative_buckets(distance: Tensor, *, buckets: int = 32, max_distance: int = 128) -> Tensor:
    """Bucket of each distance into the past.

    Half of the buckets are for the distances 0, 1, ... themselves, the rest grow geometrically up to ``max_distance``; farther ones share
    the last.

    Args:
        distance: (...) int64, query position minus key position; those below 0 count as 0.
        buckets: how many.
        max_distance: where the last bucket begins, nearly.

    Returns:
        (...) int64 in [0, buckets).

    Raises:
        ValueError: if there is no room for both halves.
    """
    check_buckets(buckets, max_distance)
    exact = buckets // 2
    distance = distance.clamp_min(0)
    growth = (distance.clamp_min(exact).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + (growth * (buckets - exact)).long()).clamp_max(buckets - 1)
    return torch.where(distance < exact, distance, far)


def relative_bucket_reference(distance: int, *, buckets: int = 32, max_distance: int = 128) -> int:
    """The definition, one distance at a time."""
    exact = buckets // 2
    if distance < exact:
        return max(distance, 0)
    growth = math.log(distance / exact) / math.log(max_distance / exact)
    return min(exact + int(growth * (buckets - exact)), buckets - 1)
