"""Rotary position embedding (RoFormer, arXiv 2104.09864): rotate pairs of channels by an angle proportional to the position.

Axes: B batch, H heads, N length, K head width.
"""

import torch
from torch import Tensor

BASE = 10000.0  # the paper's


def rotary_angles(positions: Tensor, width: int, *, base: float = BASE) -> Tensor:
    """Angles of ``width // 2`` channel pairs: (..., N) integer positions -> (..., N, width // 2) float32."""
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    return positions[..., None].to(torch.float32) * (1.0 / base**exponents)


def apply_rotary(x: Tensor, angles: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotate the first ``2 * angles.shape[-1]`` channels of each head; the rest pass unchanged.

    Args:
        x: (B, H, N, K).
        angles: (N, P) or (B, N, P) with 2 P <= K, from :func:`rotary_angles`.
        interleaved: pairs are neighbours (0, 1), (2, 3), ... instead of the two halves (0, P), (1, P + 1), ...

    Returns:
        (B, H, N, K) in the dtype of ``x``.
    """
    if angles.dim() == 3:
        angles = angles[:, None]  # the same for every head
    width = 2 * angles.shape[-1]
    exact = torch.promote_types(x.dtype, torch.float32)
    cosine, sine = angles.cos().to(exact), angles.sin().to(exact)
    turned, rest = x[..., :width].to(exact), x[..., width:]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
        rotated = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        rotated = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    rotated = rotated.to(x.dtype)
    return torch.cat((rotated, rest), dim=-1) if rest.shape[-1] else rotated
