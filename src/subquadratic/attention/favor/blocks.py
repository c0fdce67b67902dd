"""What both forms of FAVOR+ by PyTorch's operators do with a block of positions.

Axes: B batch, H heads, E batch and heads together, P positions of a block, K head width, J = K + 1 (values and a one, so that numerator and
normaliser are one matmul), M features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.numerics import NOTHING


def block(tensor: Tensor, start: int, stop: int, chunk: int) -> Tensor:
    """Positions start to stop of (B, H, N, X) as (E, P, X), P the next multiple of the chunk once there is more than one."""
    part = tensor[:, :, start:stop].flatten(0, 1)
    missing = -(stop - start) % min(chunk, stop - start)
    return F.pad(part, (0, 0, 0, missing)) if missing else part  # padding by nothing is a copy


def with_one(values: Tensor) -> Tensor:
    """(E, P, K) -> (E, P, K + 1), a one at the end."""
    return F.pad(values, (0, 1), value=1.0)


def half_square(keys: Tensor) -> Tensor:
    """What the logarithms of a key's features have in common: (E, P, K) -> (E, P), half the squared norm of keys as they are projected."""
    return torch.linalg.vecdot(keys, keys).mul_(keys.shape[-1] ** -0.5 / 2)


def guarded(normaliser: Tensor) -> Tensor:
    """Infinite where there is no key, so that what is divided by it becomes zero, gradient too."""
    return normaliser.masked_fill_(normaliser.abs() <= NOTHING, torch.inf)


def above_ratio(gradient: Tensor, output: Tensor, normaliser: Tensor) -> Tensor:
    """From the gradient of a ratio (E, P, K), the ratio and what it was divided by (E, P, 1): of both parts, (E, P, K + 1)."""
    return torch.cat((gradient, torch.linalg.vecdot(gradient, output).neg_()[..., None]), dim=-1).div_(normaliser)


def joined(total: Tensor | None, weight: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Gradients of a summary's two halves, (..., M, K) and (..., M), as one (..., J, M); zeros for those that nobody asked for."""
    both = like.new_zeros(shape)
    if total is not None:
        both[..., :-1, :] = total.mT
    if weight is not None:
        both[..., -1, :] = weight
    return both
