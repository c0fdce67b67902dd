"""Rotary positions by the C kernel: float32 on a CPU. Its backward is the product with the conjugate: `op.py`.

Axes: B batch, H heads, N length, K head width.
"""

import torch
from torch import Tensor

from ...kernels.native.checks import check_tensor, required
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, Rows, fields, operator

FEW_NUMBERS = 1 << 13  # that four small operations take no longer for


class Turn(Arguments, layout="rotary"):
    """``turn_of`` of rotary.c."""

    _fields_ = [
        *((name, Rows) for name in ("queries", "keys", "output")),
        *((name, INT64) for name in ("batch", "heads", "length", "width", "conjugate", "threads")),
    ]  # fmt: skip


def _like(x: Tensor, y: Tensor, conjugate: bool) -> Tensor:
    product = torch.empty_like(x)
    return product if product.stride(3) == 1 else torch.empty_like(x, memory_format=torch.contiguous_format)


def _check(x: Tensor, y: Tensor, conjugate: bool) -> None:
    x, y = required("complex_product", "x", x), required("complex_product", "y", y)
    if x.dim() != 4 or x.shape[3] % 2:
        raise ValueError(f"complex_product: x must be (B, H, N, K) with channels in pairs, got {tuple(x.shape)}")
    check_tensor("complex_product", "x", x, x.shape, layout="rows")
    check_tensor("complex_product", "y", y.expand(x.shape), x.shape, layout="rows")


@operator(fake=_like, check=_check)
def complex_product(x: Tensor, y: Tensor, conjugate: bool) -> Tensor:
    """x (B, H, N, K) times y, which broadcasts to it, or times its conjugate: channels (i, i + K/2) are the parts of a number."""
    product = _like(x, y, conjugate)
    sizes = dict(zip(("batch", "heads", "length", "width"), x.shape, strict=True))
    given = fields(queries=x, keys=y.expand(x.shape), output=product, conjugate=conjugate, **sizes)
    call("complex_product", Turn(**given))
    return product


def suits(x: Tensor, y: Tensor) -> bool:
    """Whether the kernel is the faster way for what it reads."""
    return x.numel() > FEW_NUMBERS and x.dtype is y.dtype and x.stride(-1) == y.stride(-1) == 1 and x.dim() == 4
