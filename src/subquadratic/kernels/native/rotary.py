"""Rotary positions by the C kernel, as an operator that PyTorch knows: float32 on a CPU.

Axes: B batch, H heads, N length, K head width.
"""

import ctypes

import torch
from torch import Tensor

from .library import library
from .tensors import LONG, Rows, fields, operator


class Turn(ctypes.Structure):
    """``turn_of`` of rotary.c."""

    _fields_ = [
        *((name, Rows) for name in ("queries", "keys", "output")),
        *((name, LONG) for name in ("batch", "heads", "length", "width", "conjugate", "threads")),
    ]  # fmt: skip


def _like(x: Tensor, y: Tensor, conjugate: bool) -> Tensor:
    return torch.empty_like(x)


@operator(fake=_like)
def complex_product(x: Tensor, y: Tensor, conjugate: bool) -> Tensor:
    """x (B, H, N, K) times y, which broadcasts to it, or times its conjugate: channels (i, i + K/2) are the parts of a number."""
    product = _like(x, y, conjugate)
    sizes = dict(zip(("batch", "heads", "length", "width"), x.shape, strict=True))
    given = fields(queries=x, keys=y.expand(x.shape), output=product, conjugate=conjugate, **sizes)
    library().complex_product(ctypes.byref(Turn(**given)))
    return product
