"""One new token of causal FAVOR+ by a C kernel, as an operator that PyTorch knows: float32 on a CPU, no gradients.

A call takes 50 microseconds, of which its arguments should not be half.

Axes: B batch, H heads, K head width, V width of values, M features.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from .favor import NOTHING
from .library import library
from .tensors import LONG, POINTER, operator

BEFORE = ("total", "weight", "maximum", "sum", "count")
TENSORS = ("queries", "keys", "values", "turns", "live", "projection", *BEFORE, "output", *(f"{name}_after" for name in BEFORE))
SIZES = ("batch", "heads", "width", "value_width", "features", "turns_step", "threads")


class Token(ctypes.Structure):
    """``token`` of favor_step.c."""

    _fields_ = [*((name, POINTER) for name in TENSORS), *((name, LONG) for name in SIZES), ("nothing", ctypes.c_float)]


def _favor_step_like(
    queries: Tensor, keys: Tensor, values: Tensor, turns: Tensor | None, live: Tensor | None, projection: Tensor, *state: Tensor
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in (values, *state))


@operator(fake=_favor_step_like)
def favor_step(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    turns: Tensor | None,
    live: Tensor | None,
    projection: Tensor,
    total: Tensor,
    weight: Tensor,
    maximum: Tensor,
    sums: Tensor,
    count: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Causal FAVOR+ of one token, (B, H, 1, K), from a state, all of them contiguous; the projection (M, K) as it was drawn.

    ``turns`` (1, K) or (B, 1, 1, K), cosines and then sines, turn queries and keys first. The output (B, H, 1, V) and the state after.
    """
    read = (queries, keys, values, turns, live, projection, total, weight, maximum, sums, count)
    made: Any = _favor_step_like(*read)
    batch, heads, _, width = queries.shape
    assert all(x is None or x.is_contiguous() for x in read) and (turns is None or width % 2 == 0)
    step = 0 if turns is None or turns.numel() == width else width
    pointers = [None if x is None else x.data_ptr() for x in (*read, *made)]
    sizes = batch, heads, width, values.shape[3], len(projection), step, torch.get_num_threads()
    library().favor_step(ctypes.byref(Token(*pointers, *sizes, NOTHING)))
    return made
