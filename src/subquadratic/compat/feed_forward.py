"""The feed-forward layer that performer-pytorch and linformer have in common, under its published names.

Axes: B batch, N length, D width.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..core.errors import require, require_positive, require_probability
from ..core.scalars import plain_scalars
from ..layers.feed_forward.gelu import gelu
from ..layers.feed_forward.layer import in_one_operation
from ..layers.linear.layer import Linear
from ..layers.untouched import is_untouched


class FeedForward(nn.Module):
    """D -> mult * D -> D.

    Args:
        dim: D.
        mult: inner width over D.
        dropout: after the activation.
        activation: makes the activation; None: GELU.
        glu: the first half of a doubled inner layer, activated, gates the second.

    Raises:
        ValueError: for values out of range.
    """

    @plain_scalars
    def __init__(
        self, dim: int, mult: float = 4, dropout: float = 0.0, activation: Callable[[], nn.Module] | None = None, glu: bool = False
    ):
        super().__init__()
        require_positive(dim=dim)
        require_probability(ff_dropout=dropout)
        inner = int(dim * mult)
        require(inner >= 1, f"ff_mult must give an inner width of at least 1, got {mult!r} times {dim}")
        self.glu = glu
        self.w1 = Linear(dim, inner * (2 if glu else 1))
        self.act = (activation or nn.GELU)()
        self.dropout = nn.Dropout(dropout)
        self.w2 = Linear(inner, dim)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, N, D) -> (B, N, D). What is for other layers is not read."""
        plain = is_untouched(self.act, nn.GELU) and self.act.approximate == "none"
        fused = in_one_operation(x, self.w1, self.dropout, self.w2) if plain else None
        if fused is not None:
            return fused
        activate = gelu if plain else self.act
        x = self.w1(x)
        if self.glu:
            gate, value = x.chunk(2, dim=-1)
            x = activate(gate) * value
        else:
            x = activate(x)
        return self.w2(self.dropout(x))
