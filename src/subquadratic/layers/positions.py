"""Position embeddings that are added to the input: learned, fixed sinusoidal, axial. (Rotary positions live in the attention layers.)

Axes: B batch, N length, D width.
"""

import math

import torch
from torch import Tensor, nn

from ..core.choices import POSITIONS
from ..core.errors import require, require_choice, require_positive
from ..core.scalars import plain_scalars
from .rotary.op import rotary_angles


class LearnedPositions(nn.Module):
    """A table of ``max_length`` vectors."""

    @plain_scalars
    def __init__(self, dim: int, max_length: int):
        super().__init__()
        require_positive(max_length=max_length)
        self.max_length = max_length
        self.table = nn.Embedding(max_length, dim)

    def forward(self, positions: Tensor) -> Tensor:
        """(...) int64 -> (..., D)."""
        return self.table(positions)


class FixedPositions(nn.Module):
    """Sines and cosines of geometric wavelengths (Vaswani et al., arXiv 1706.03762, section 3.5), computed when asked: any length, no
    buffer."""

    @plain_scalars
    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, positions: Tensor) -> Tensor:
        """(...) int64 -> (..., D) float32: sines in the first half, cosines in the second."""
        angles = rotary_angles(positions, self.dim)
        return torch.cat((angles.sin(), angles.cos()), dim=-1)[..., : self.dim].to(torch.float32)


class AxialPositions(nn.Module):
    """Position p = row * columns + column gets row vector + column vector (Reformer's axial positions, arXiv 1912.12180, summed form)."""

    @plain_scalars
    def __init__(self, dim: int, shape: tuple[int, int]):
        super().__init__()
        require(len(shape) == 2, f"axial_shape must be (rows, columns), got {shape!r}")
        require_positive(axial_rows=shape[0], axial_columns=shape[1])
        self.columns = shape[1]
        self.max_length = shape[0] * shape[1]
        self.rows_table = nn.Parameter(torch.randn(shape[0], dim) * dim**-0.5)
        self.columns_table = nn.Parameter(torch.randn(shape[1], dim) * dim**-0.5)

    def forward(self, positions: Tensor) -> Tensor:
        """(...) int64 -> (..., D)."""
        return self.rows_table[positions // self.columns] + self.columns_table[positions % self.columns]


def make_positions(kind: str | None, dim: int, *, max_length: int | None, axial_shape: tuple[int, int] | None) -> nn.Module | None:
    """What is added to the token embedding for ``kind``; None for "rotary" and None.

    Raises:
        ValueError: when a table is asked for and ``max_length`` (or ``axial_shape``) does not say how long.
    """
    require_choice("positions", kind, POSITIONS)
    if kind == "fixed":
        return FixedPositions(dim)
    if kind == "learned":
        if max_length is None:
            raise ValueError("positions='learned' needs max_length, the number of positions in the table, got None")
        return LearnedPositions(dim, max_length)
    if kind == "axial":
        if axial_shape is None:
            if max_length is None:
                raise ValueError("positions='axial' needs max_length or axial_shape=(rows, columns), got neither")
            columns = math.isqrt(max_length - 1) + 1
            axial_shape = (-(-max_length // columns), columns)
        return AxialPositions(dim, axial_shape)
    return None
