"""How a sequence is summed into R slots: the matrices E and F of Linformer (arXiv 2006.04768, section 4), row by position.

Axes: B batch, N length, R slots.
"""

import torch
from torch import Tensor, nn

from ...core.choices import PROJECTIONS
from ...core.errors import require_choice, require_positive

TAPS = 16  # resolution of a convolution's kernel, which is stretched to the stride that a length gives


class SlotProjection(nn.Module):
    """Rows of E and F for given positions.

    Args:
        slots: R.
        max_length: positions that there are rows for. May be None with "pool" and "conv", for bidirectional use.
        kind: "learned": every weight is a parameter. "pool": slot r is the mean of the r-th of R equal runs of positions. "conv": a learned
            kernel over each run, stride = run (the paper's section 4, "general projections").
        shared: F = E ("key-value sharing").

    Raises:
        ValueError: for values out of range, or "learned" without ``max_length``.
    """

    def __init__(self, slots: int, *, max_length: int | None, kind: str = "learned", shared: bool = False):
        super().__init__()
        require_positive(slots=slots, max_length=max_length)
        require_choice("projection", kind, PROJECTIONS)
        self.slots, self.max_length, self.kind, self.shared = slots, max_length, kind, shared
        if kind == "learned":
            if max_length is None:
                raise ValueError("projection='learned' needs max_length, the number of positions that have weights, got None")
            spread = max_length**-0.5  # a full sequence then gives slots of the scale of one token
            self.key_weights = nn.Parameter(torch.randn(max_length, slots) * spread)
            self.value_weights = None if shared else nn.Parameter(torch.randn(max_length, slots) * spread)
        elif kind == "conv":
            self.key_weights = nn.Parameter(torch.ones(TAPS))  # starts as pooling
            self.value_weights = None if shared else nn.Parameter(torch.ones(TAPS))

    def forward(self, positions: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """E and F at ``positions``.

        Args:
            positions: (N,) or (B, N) int64, below ``max_length`` where there is one.
            lengths: (B,) real tokens per row, over which "pool" and "conv" spread their runs; None: over ``max_length`` (what a causal
                layer must do).

        Returns:
            Two tensors (N, R) or (B, N, R); the same one twice when shared.
        """
        if self.kind == "learned":
            keys = _rows(self.key_weights, positions)
            return keys, keys if self.value_weights is None else _rows(self.value_weights, positions)
        runs, within, size = self._runs(positions, lengths)
        # F.one_hot looks at the numbers, which torch.func.vmap has none to show of.
        members = (runs[..., None] == torch.arange(self.slots, device=runs.device)).to(size.dtype) / size[..., None]
        if self.kind == "pool":
            return members, members
        keys = members * _stretch(self.key_weights, within)[..., None]
        return keys, keys if self.value_weights is None else members * _stretch(self.value_weights, within)[..., None]

    def first(self, length: int) -> tuple[Tensor, Tensor]:
        """E and F of a "learned" projection at positions 0 to ``length`` - 1, (N, R): where they lie, without a copy."""
        assert self.kind == "learned"
        keys = _first_rows(self.key_weights, length)
        return keys, keys if self.value_weights is None else _first_rows(self.value_weights, length)

    def _runs(self, positions: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """For each position: its run, its place within it in [0, 1), and the run's size."""
        if lengths is None:
            assert self.max_length is not None
            total = torch.full_like(positions, self.max_length)
        else:
            total = lengths[:, None].expand(-1, positions.shape[-1]).clamp_min(1)
            positions = positions.expand_as(total)
        runs = (positions * self.slots // total).clamp_max(self.slots - 1)
        first = (runs * total + self.slots - 1) // self.slots  # the first position of this run, and of the next
        following = ((runs + 1) * total + self.slots - 1) // self.slots
        size = (following - first).clamp_min(1).to(torch.get_default_dtype())
        return runs, (positions - first).to(size.dtype) / size, size


def _rows(weights: Tensor, positions: Tensor) -> Tensor:
    return nn.functional.embedding(positions, weights)


def _first_rows(weights: Tensor, length: int) -> Tensor:
    return weights if length == len(weights) else weights[:length]


def _stretch(taps: Tensor, within: Tensor) -> Tensor:
    """The kernel at fractions of its length, linearly between its taps."""
    place = within * (TAPS - 1)
    low = place.long().clamp(0, TAPS - 2)
    share = place - low
    return taps[low] * (1 - share) + taps[low + 1] * share
