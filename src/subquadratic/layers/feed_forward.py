"""The position-wise feed-forward layer.

Axes: B batch, N length, D width.
"""

import torch
from torch import Tensor, nn

from ..ops.errors import require, require_positive, require_probability
from ..ops.feed_forward_native import NativeFeedForward, suits
from ..ops.gelu import gelu
from ..ops.scalars import plain_scalars
from .hooks import is_untouched
from .linear import Linear


class FeedForward(nn.Module):
    """D -> mult * D -> D with GELU, or GELU-gated (GEGLU, arXiv 2002.05202).

    Args:
        dim: D.
        mult: inner width over D; may be fractional.
        glu: gate the inner layer (half as many more weights).
        chunks: run over the sequence in this many pieces, for less memory at the same result.
        dropout: after the activation.

    Raises:
        ValueError: for values out of range.
    """

    @plain_scalars
    def __init__(self, dim: int, *, mult: float = 4.0, glu: bool = False, chunks: int = 1, dropout: float = 0.0):
        super().__init__()
        require_positive(dim=dim, ff_chunks=chunks)
        require_probability(dropout=dropout)
        inner = int(dim * mult)
        require(inner >= 1, f"ff_mult must give an inner width of at least 1, got {mult!r} times {dim}")
        self.glu, self.chunks = glu, chunks
        self.expand = Linear(dim, inner * (2 if glu else 1))
        self.contract = Linear(inner, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        if self.chunks == 1:
            return self._run(x)
        return torch.cat([self._run(piece) for piece in x.chunk(self.chunks, dim=1)], dim=1)

    def _run(self, x: Tensor) -> Tensor:
        maps = self.expand, self.contract
        untouched = all(is_untouched(part, Linear, nn.Dropout) for part in (*maps, self.dropout))
        if untouched and not (self.training and self.dropout.p):
            parameters = [parameter for linear in maps for parameter in (linear.weight, linear.bias)]
            if suits(x, *parameters):
                return NativeFeedForward.apply(x.reshape(-1, x.shape[-1]), *parameters).view(*x.shape[:-1], -1)
        x = self.expand(x)
        if self.glu:
            x, value = x.chunk(2, dim=-1)
            x = gelu(x) * value
        else:
            x = gelu(x)
        return self.contract(self.dropout(x))
