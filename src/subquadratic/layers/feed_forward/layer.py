"""The position-wise feed-forward layer.

Axes: B batch, N length, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import require, require_positive, require_probability
from ...core.scalars import plain_scalars
from ...core.tracing import needs_gradient
from ..linear.int8 import Int8Linear
from ..linear.layer import Linear
from ..linear.op import FEW_ROWS_HERE, most_few_rows
from ..untouched import is_untouched
from .few_rows import feed_forward_few_rows, feed_forward_few_rows_int8
from .gelu import gelu
from .native import NativeFeedForward, are_rows_enough, can_be_taken, suits


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
        self.glu, self.chunks, self.inner = glu, chunks, inner
        self.expand = Linear(dim, inner * (2 if glu else 1))
        self.contract = Linear(inner, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        if self.chunks == 1:
            return self._run(x)
        return torch.cat([self._run(piece) for piece in x.chunk(self.chunks, dim=1)], dim=1)

    def _run(self, x: Tensor) -> Tensor:
        fused = in_one_operation(x, self.expand, self.dropout, self.contract)
        if fused is not None:
            if self.glu:
                self._check_gates(self.expand.weight.shape[0])
            return fused
        x = self.expand(x)
        if self.glu:
            self._check_gates(x.shape[-1])
            x, value = x.chunk(2, dim=-1)
            x = gelu(x) * value
        else:
            x = gelu(x)
        return self.contract(self.dropout(x))

    def _check_gates(self, width: int) -> None:
        """Tensor parallelism gives a rank some rows of ``expand``: not as many gates as values."""
        require(
            width == 2 * self.inner,
            f"expand of a FeedForward with glu=True must give {self.inner} gates and then {self.inner} values, got {width} channels: "
            "its rows cannot be split over ranks (replicate this layer, or use glu=False)",
        )


def in_one_operation(x: Tensor, expand: Any, dropout: Any, contract: Any, *, gates_last: bool = False) -> Tensor | None:
    """contract(dropout(gelu(expand(x)))) of (B, N, D) by the C kernels; None where it is to be made of the modules.

    Where ``expand`` is twice as wide as ``contract`` reads, one half of its channels, the first unless ``gates_last``, gates the other.
    """
    if torch.compiler.is_compiling():
        return None
    kind = Int8Linear if type(expand) is Int8Linear else Linear
    many, most = are_rows_enough(x), most_few_rows() if kind is Linear else FEW_ROWS_HERE
    if not (many or 0 < x.numel() <= most * x.shape[-1]):
        return None
    if not all(map(is_untouched, (expand, dropout, contract), (kind, nn.Dropout, kind))):
        return None
    if (dropout.training and dropout.p) or (many and not suits(x, expand.weight, contract.weight)):
        return None
    if kind is Int8Linear:
        if not many:
            return None if gates_last else _of_few_int8(x, expand, contract)
        expand.refuse_training()
    weights: list[Any] = [layer.weight if kind is Linear else layer.widened(x.dtype) for layer in (expand, contract)]
    weights = [weights[0], expand.bias, weights[1], contract.bias]
    if not can_be_taken(x, weights):
        return None
    if not many:
        if gates_last or needs_gradient(x, *weights) or not all(map(Tensor.is_contiguous, weights)):
            return None
        return feed_forward_few_rows(x.reshape(-1, x.shape[-1]).contiguous(), *weights).view(*x.shape[:-1], -1)
    if gates_last:
        weights[:2] = (torch.cat(tensor.chunk(2)[::-1]) for tensor in weights[:2])
    return NativeFeedForward.apply(x.reshape(-1, x.shape[-1]), *weights).view(*x.shape[:-1], -1)


def _of_few_int8(x: Tensor, expand: Any, contract: Any) -> Tensor | None:
    floats = [expand.scale, expand.bias, contract.scale, contract.bias]
    if needs_gradient(x, *floats) or not can_be_taken(x, floats, width=expand.in_features):
        return None
    given = expand.weight, expand.scale, expand.bias, contract.weight, contract.scale, contract.bias
    return feed_forward_few_rows_int8(x.reshape(-1, x.shape[-1]).contiguous(), *given).view(*x.shape[:-1], -1)
