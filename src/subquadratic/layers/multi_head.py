"""Splitting a model's width into heads and back, and what is done to queries and keys on the way.

Axes: B batch, N length, D width, H heads, K head width.
"""

import torch
from torch import Tensor, nn

from ..core.errors import require, require_positive
from ..core.numerics import exact_dtype
from ..core.padding import token_positions
from ..core.vector_length import vector_length
from .rotary.op import rotation, turn


def split_heads(x: Tensor, *, width: int) -> Tensor:
    """(B, N, H K) -> (B, H, N, K) with heads of K = ``width``, as many as there are: a rank of tensor parallelism has some of them."""
    heads = x.shape[2] // width  # and not divmod, which sizes traced by torch.jit do not have
    if heads * width != x.shape[2]:
        raise ValueError(f"a map gave {x.shape[2]} channels, which is not a multiple of the head width {width}")
    if x.shape[1] == 1:  # a token's numbers lie the same way either way
        return x.reshape(x.shape[0], heads, 1, width)
    return x.unflatten(-1, (heads, width)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, K) -> (B, N, H K)."""
    if x.shape[2] == 1:
        return x.reshape(x.shape[0], 1, x.shape[1] * x.shape[3])
    return x.transpose(1, 2).flatten(2)


def head_width(dim: int, heads: int, head_dim: int | None) -> int:
    """K: ``head_dim``, or dim / heads.

    Raises:
        ValueError: if neither works out.
    """
    require_positive(dim=dim, heads=heads, head_dim=head_dim)
    if head_dim is not None:
        return head_dim
    require(dim % heads == 0, f"dim must be divisible by heads when head_dim is not given, got dim={dim} and heads={heads}")
    return dim // heads


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions on every channel of (B, H, N, K); positions (N,) or (B, N)."""
    return turn(x, rotation(positions, x.shape[-1]))


def position_turns(x: Tensor, mask: Tensor | None, seen: Tensor | None, width: int) -> Tensor:
    """The `rotation` (`rotary`) of each position of (B, N, D), counted over the real tokens after ``seen`` (B,)."""
    return rotation(token_positions(mask, x.shape[1], seen, device=x.device), width)


def require_even(width: int, rotary: bool) -> None:
    """Rotary positions turn pairs of channels."""
    require(
        not rotary or width % 2 == 0, f"head_dim must be even for rotary positions, got {width}; choose an even head_dim or rotary=False"
    )


class QueryKeyNorm(nn.Module):
    """Gives every query and key the length K^(1/4) g, with a learned g per head that starts at 1 (QK-norm, arXiv 2010.04245).

    Attention logits then start within [-1, 1], where random features are accurate.
    """

    def __init__(self, heads: int, width: int):
        super().__init__()
        self.length = width**0.25
        self.gain = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, N, K) -> (B, H, N, K)."""
        exact = x.to(exact_dtype(x))
        return (exact * (self.gain * self.length / vector_length(exact, least=1e-6))).to(x.dtype)
