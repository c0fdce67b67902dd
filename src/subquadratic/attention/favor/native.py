"""What the C kernels of causal.c and summary.c are handed: ``favor`` of favor.h. Float32 on a CPU.

A chunk's features exist in a core's cache and nowhere else: backward makes them again.

Axes: B batch, H heads, N length, K head width, V width of values, M features.
"""

import ctypes
from typing import Any

from torch import Tensor

from ...core.layout import dense_channels
from ...core.numerics import EMPTY, LOG2E, NOTHING
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, ROWS, Rows, fields


class Favor(Arguments, layout="favor"):
    """``favor`` of favor.h."""

    _fields_ = [
        *((name, Rows) for name in ROWS),
        ("live", POINTER), ("live_step", INT64), ("projection", POINTER), ("table", POINTER), ("runs", POINTER),
        *((name, INT64) for name in ("run_count", "heads", "width", "value_width", "features", "stride", "shares", "threads")),
        *((name, POINTER) for name in ("total", "weight", "maximum", "d_total", "d_weight", "normaliser")),
        ("length", INT64), ("marks", POINTER), ("sums", POINTER), ("kept", POINTER), ("nothing", ctypes.c_float), ("empty", ctypes.c_float),
    ]  # fmt: skip


def call_with(name: str, projection: Tensor, **arguments: Any) -> None:
    """Call a kernel with the fields of :class:`Favor` that it reads."""
    projection = projection.contiguous()
    more = dict(projection=projection, table=projection * LOG2E, features=len(projection), nothing=NOTHING, empty=EMPTY)
    call(name, Favor(**fields(**arguments, **more)))


def room_for_sums(like: Tensor, shares: int, features: int, value_width: int) -> Tensor:
    """Storage for what each share of the positions sums up, rows filled up to whole vectors."""
    return like.new_empty(shares * (features * (value_width + 32) + 64))


def laid_out(*tensors: Tensor) -> list[Tensor]:
    """As the kernels want them."""
    return [dense_channels(x) for x in tensors]
