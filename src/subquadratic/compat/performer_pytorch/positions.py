"""Position embeddings as published: fixed sinusoids (also what rotates queries and keys), a learned table, axial tables.

A sinusoid holds the sines of all frequencies, then their cosines: (1 or B, N, width). Rotation turns neighbouring channels.

Axes: B batch, H heads, N length, D width, K head width.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import require, require_positive
from ...core.scalars import plain_scalars
from ...layers.rotary.op import rotary_angles


def sinusoid(positions: Tensor, dim: int) -> Tensor:
    """(N,) or (B, N) positions -> (1 or B, N, dim) float32."""
    angles = rotary_angles(positions, dim, dtype=torch.float32)  # as in the published table, which ends at max_seq_len
    table = torch.cat((angles.sin(), angles.cos()), dim=-1)[..., :dim]
    return table if table.dim() == 3 else table[None]


def rotate_by_sinusoid(x: Tensor, table: Tensor) -> Tensor:
    """Turn the channel pairs (0, 1), (2, 3), ... of (B, H, N, K) by a sinusoid (1 or B, N, K)."""
    if table.shape[-2:] != (x.shape[-2], x.shape[-1]):
        raise ValueError(
            f"pos_emb must be (1 or batch, length, head width) with the last two {(x.shape[-2], x.shape[-1])}, got {tuple(table.shape)}"
        )
    exact = torch.promote_types(x.dtype, torch.float32)
    sine, cosine = table[:, None].to(exact).chunk(2, dim=-1)
    first, second = x.to(exact).unflatten(-1, (-1, 2)).unbind(dim=-1)
    return torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=-1).flatten(-2).to(x.dtype)


class FixedPositionalEmbedding(nn.Module):
    """Sinusoids, computed when asked: no table in the checkpoint, and the published table of any ``max_seq_len`` is accepted there.


    Args:
        dim: width.
        max_seq_len: the longest sequence.
        exact: in float32, whatever the precision of the model; for rotation.
    """

    @plain_scalars
    def __init__(self, dim: int, max_seq_len: int, *, exact: bool = False):
        super().__init__()
        require_positive(dim=dim, max_seq_len=max_seq_len)
        self.dim, self.max_seq_len, self.exact = dim, max_seq_len, exact
        self.register_load_state_dict_pre_hook(_forget_table)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, N, ...) -> (1 or B, N, dim) like x; positions (N,) or (B, N), None = 0, 1, ..."""
        table = sinusoid(_positions(x, positions), self.dim)
        return table if self.exact else table.to(x)


class Always(nn.Module):
    """Gives the same value for any input: no rotation, where positions are a table."""

    def __init__(self, val: Any):
        super().__init__()
        self.val = val

    def forward(self, *unused: Any) -> Any:
        """``val``."""
        return self.val


class AbsolutePositionalEmbedding(nn.Module):
    """A learned vector per position."""

    @plain_scalars
    def __init__(self, dim: int, max_seq_len: int):
        super().__init__()
        require_positive(dim=dim, max_seq_len=max_seq_len)
        self.max_seq_len = max_seq_len
        self.emb = nn.Embedding(max_seq_len, dim)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, N, ...) -> (N, D) or (B, N, D)."""
        return self.emb(_positions(x, positions))


class AxialPositionalEmbedding(nn.Module):
    """The sum of one learned vector per coordinate of the position in a grid, row by row.

    Args:
        dim: D.
        axial_shape: the grid; its product is the largest length.
    """

    @plain_scalars
    def __init__(self, dim: int, axial_shape: tuple[int, ...]):
        super().__init__()
        require(len(axial_shape) > 0, f"axial_position_shape must name at least one axis, got {axial_shape!r}")
        require_positive(**{f"axial_position_shape[{axis}]": size for axis, size in enumerate(axial_shape)})
        self.shape = tuple(axial_shape)
        self.max_seq_len = math.prod(axial_shape)
        ones = [1] * len(axial_shape)
        tables = [torch.randn(1, *ones[:axis], size, *ones[axis + 1 :], dim) for axis, size in enumerate(axial_shape)]
        self.weights = nn.ParameterList(tables)
        self.register_load_state_dict_pre_hook(_rename_old_tables)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, N, ...) -> (N, D) or (B, N, D)."""
        if x.shape[1] > self.max_seq_len:
            raise ValueError(f"axial_position_shape {self.shape} has {self.max_seq_len} positions, the sequence has {x.shape[1]}")
        coordinates = torch.unravel_index(_positions(x, positions), self.shape)
        tables = (table.flatten(0, -2) for table in self.weights)
        return sum((table[place] for table, place in zip(tables, coordinates, strict=True)), start=torch.zeros((), device=x.device)).to(x)


def _positions(x: Tensor, positions: Tensor | None) -> Tensor:
    return torch.arange(x.shape[1], device=x.device) if positions is None else positions


def _forget_table(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    state_dict.pop(prefix + "emb", None)


def _rename_old_tables(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Older releases of the axial embedding said ``weights_0`` where newer ones say ``weights.0``."""
    for key in [key for key in state_dict if key.startswith(prefix + "weights_")]:
        state_dict[f"{prefix}weights.{key.removeprefix(prefix + 'weights_')}"] = state_dict.pop(key)
