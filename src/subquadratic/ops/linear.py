"""x W^T + b, by whichever of PyTorch's matrix libraries is the faster one for float32 on this CPU.

PyTorch multiplies float32 matrices with MKL, which on AMD processors leaves AVX-512 unused; oneDNN, which PyTorch has too, uses it. Both
are exact to rounding. The choice depends on the processor and the shapes alone, never on a clock, so that a run repeats bit for bit.

Axes: T rows (batch and length together), D width in, F width out.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .backend import PLAIN, is_traced, needs_gradient

FEW_ROWS = 8  # new tokens: the time is that of reading the weights
FEWEST_ROWS, NARROWEST = 1024, 16  # rows and width out below which handing matrices over to oneDNN costs what its kernels save


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As ``torch.nn.functional.linear``: (..., D), (F, D), (F,) -> (..., F). Twice differentiable, like that."""
    rows = x.numel() // max(x.shape[-1], 1)
    if FEW_ROWS < rows < FEWEST_ROWS or weight.shape[0] < NARROWEST or is_traced() or not _suits(x, weight, bias):
        return F.linear(x, weight, bias)
    if rows <= FEW_ROWS:
        parts = None if rows == 0 or needs_gradient(x, weight, *(() if bias is None else (bias,))) else parts_of(weight)
        return F.linear(x, weight, bias) if parts is None else _in_bands(x, weight, bias, rows, parts)
    y = _Linear.apply(x.reshape(rows, x.shape[-1]), weight, bias)
    return y.view(*x.shape[:-1], weight.shape[0])


def parts_of(weight: Tensor) -> int | None:
    """In how many bands of rows a product of W (F, D) by a few columns goes fastest, as a batch of products; None: in one, or unknown.

    For a few rows by a matrix MKL reads weights that are in no cache at 8 GB/s, and in this way, with all threads, at 30. Measured on
    an AMD processor with two threads; not done where oneDNN is not the faster one either.
    """
    parts = 4 if weight.shape[0] % 4 == 0 else 2
    return parts if weight.shape[0] % parts == 0 and weight.is_contiguous() and onednn_is_faster() else None


def _in_bands(x: Tensor, weight: Tensor, bias: Tensor | None, rows: int, parts: int) -> Tensor:
    width, inner = weight.shape
    # The columns must lie one after the other, even a single one.
    columns = x.reshape(1, rows, inner).transpose(1, 2).expand(parts, inner, rows)
    bands = weight.view(parts, width // parts, inner)
    y = torch.bmm(bands, columns) if bias is None else torch.baddbmm(bias.view(parts, width // parts, 1), bands, columns)
    if rows == 1:
        return y.view(*x.shape[:-1], width)
    return y.view(width, rows).T.contiguous().view(*x.shape[:-1], width)


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype is weight.dtype is torch.float32
        and (bias is None or bias.dtype is torch.float32)
        and not torch.is_autocast_enabled("cpu")
        and type(weight) in PLAIN
        and onednn_is_faster()
    )


@functools.cache
def onednn_is_faster() -> bool:
    """AMD with AVX-512, and a PyTorch that has the operator (a private one, which its own compiler uses)."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        vendor = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False
    return vendor and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x.contiguous(), weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        d_x = None
        if wants_x:  # with grad enabled this backward is itself differentiated, which oneDNN's operator does not allow
            d_x = gradient @ weight if torch.is_grad_enabled() else _product(gradient.contiguous(), weight.T)
        return d_x, gradient.T @ x if wants_weight else None, gradient.sum(dim=0) if wants_bias else None
