"""Norms before a residual branch, and the gain that replaces them.

Axes: B batch, N length, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...core.choices import NORMS
from ...core.errors import require_choice
from ...core.numerics import exact_dtype
from ...core.vector_length import vector_length
from ..untouched import is_untouched
from .native import NativeAddNorm, suits


class ScaleNorm(nn.Module):
    """x / |x| times one learned gain (Nguyen & Salazar, arXiv 1910.05895, eq. 5). The gain starts at sqrt(D), as there."""

    def __init__(self, dim: int, *, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.gain = nn.Parameter(torch.full((1,), dim**0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D); the norm is taken in float32."""
        exact = x.to(exact_dtype(x))
        return (exact / vector_length(exact, least=self.epsilon) * self.gain).to(x.dtype)


class Gain(nn.Module):
    """One learned factor on a branch (ReZero, arXiv 2003.04887): the stack starts near the identity. Starts at 1e-3, the published
    Performer's value."""

    def __init__(self, start: float = 1e-3):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return x * self.gain.to(x.dtype)


def sum_and_norm(norm: Any, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """x + delta (or x) and its norm in one pass, (B, N, D) both; None where there is no such pass, or others listen to the norm."""
    if is_untouched(norm, nn.LayerNorm) and suits(x, delta, norm.weight, norm.bias):
        return NativeAddNorm.apply(x, delta, norm.weight, norm.bias, norm.eps)
    return None


def make_norm(kind: str, dim: int) -> nn.Module | None:
    """The norm before a branch: "layer", "scale", or None for "rezero" (which has a :class:`Gain` after it instead)."""
    require_choice("norm", kind, NORMS)
    if kind == "layer":
        return nn.LayerNorm(dim)
    return ScaleNorm(dim) if kind == "scale" else None
