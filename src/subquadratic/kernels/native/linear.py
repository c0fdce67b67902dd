"""Linear maps of many rows by the processor's matrix unit, as operators that PyTorch knows: float32 on a CPU.

Axes: T rows (batch and length together), D width in, F width out.
"""

import ctypes
import functools

import torch
from torch import Tensor

from .library import library, why_not
from .tensors import LONG, POINTER, fields, operator, whole

SIDE, DEPTH = 16, 32  # of a tile, as in matrix_unit.h


class Map(ctypes.Structure):
    """``map`` of linear.c."""

    _fields_ = [
        *((name, POINTER) for name in ("x", "weight", "bias", "other", "y", "row_sum", "packed", "sums")),
        *((name, LONG) for name in ("rows", "dim", "out", "x_step", "weight_step", "other_step", "turned", "shares", "threads")),
    ]  # fmt: skip


@functools.cache
def has_matrix_unit() -> bool:
    """Whether there are C kernels here, and a matrix unit for them: where not, these operators cannot run."""
    return why_not() is None and bool(library().has_matrix_unit())


def _mapped_like(x: Tensor, weight: Tensor, bias: Tensor | None, turned: bool) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1 if turned else 0])


@operator(fake=_mapped_like)
def linear_map(x: Tensor, weight: Tensor, bias: Tensor | None, turned: bool) -> Tensor:
    """x W^T + b of (T, D), (F, D) and (F,): (T, F). ``turned``: W comes as (D, F). Rows may lie apart, their numbers not."""
    y = _mapped_like(x, weight, bias, turned)
    (rows, dim), out = x.shape, y.shape[1]
    packed = x.new_empty(whole(out, SIDE) * whole(dim, DEPTH) * 3 // 2)
    given = fields(
        x=_apart(x), weight=_apart(weight), bias=bias, y=y, packed=packed, rows=rows, dim=dim, out=out, x_step=x.stride(0),
        weight_step=weight.stride(0), turned=turned,
    )  # fmt: skip
    library().linear_map(ctypes.byref(Map(**given)))
    return y


def _summed_like(other: Tensor, x: Tensor, wants_rows: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(other.shape[1], x.shape[1]), x.new_empty(other.shape[1] if wants_rows else 0)


@operator(fake=_summed_like)
def sum_of_outer_products(other: Tensor, x: Tensor, wants_rows: bool) -> tuple[Tensor, Tensor]:
    """other^T x of (T, F) and (T, D): (F, D); and the sum of other's rows (F,), or nothing. Rows may lie apart, their numbers not."""
    y, row_sum = _summed_like(other, x, wants_rows)
    (rows, dim), out = x.shape, y.shape[0]
    shares = max(1, min(torch.get_num_threads(), rows // 128))
    sums = x.new_empty(shares * (out * whole(dim) + whole(out)))
    given = fields(
        x=_apart(x), other=_apart(other), y=y, row_sum=row_sum if wants_rows else None, sums=sums, rows=rows, dim=dim, out=out,
        x_step=x.stride(0), other_step=other.stride(0), shares=shares,
    )  # fmt: skip
    library().sum_of_outer_products(ctypes.byref(Map(**given)))
    return y, row_sum


def _apart(x: Tensor) -> int:
    assert x.stride(1) == 1 or x.shape[1] == 1, x.stride()
    return x.data_ptr()
