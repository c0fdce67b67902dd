"""One new token of causal FAVOR+ by a C kernel (step.c), as an operator that PyTorch knows: float32 on a CPU, no gradients.

A call takes 50 microseconds, of which its arguments should not be half.

Axes: B batch, H heads, K head width, V width of values, M features.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from ...core.kept_memory import empty_like
from ...core.numerics import NOTHING
from ...kernels.native.checks import asks
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, operator, positions
from .state import FeatureState

BEFORE = ("total", "weight", "maximum")
TENSORS = ("queries", "keys", "values", "turns", "live", "projection", *BEFORE, "output", *(f"{name}_after" for name in BEFORE))
SIZES = ("batch", "heads", "width", "value_width", "features", "turns_step", "threads")


class Token(Arguments, layout="favor_step"):
    """``token`` of step.c."""

    _fields_ = [*((name, POINTER) for name in TENSORS), *((name, INT64) for name in SIZES), ("nothing", ctypes.c_float)]


def _favor_step_like(
    queries: Tensor, keys: Tensor, values: Tensor, turns: Tensor | None, mask: Tensor | None, projection: Tensor, *state: Tensor
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in (values, *state))


def _work_of_favor_step(
    queries: Tensor, keys: Tensor, values: Tensor, turns: Tensor | None, mask: Tensor | None, projection: Tensor, *_: Any
) -> int:
    return positions(values) * 2 * len(projection) * (queries.shape[3] + values.shape[3])


@operator(
    work=_work_of_favor_step,
    fake=_favor_step_like,
    check=asks(
        queries="B H 1 K", keys="B H 1 K", values="B H 1 V", turns="1 K | 1 1 1 K | B 1 1 K", mask="B 1, bool", projection="M K",
        total="B H M V", weight="B H M", maximum="B H 1",
        require={"turns is None or K % 2 == 0": "channels are turned in pairs, got {K}"},
    ),
)  # fmt: skip
def favor_step(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    turns: Tensor | None,
    mask: Tensor | None,
    projection: Tensor,
    total: Tensor,
    weight: Tensor,
    maximum: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Causal FAVOR+ of one token, (B, H, 1, K), from a state, all of them contiguous; the projection (M, K) as it was drawn.

    ``turns`` (1, K) or (B, 1, 1, K), cosines and then sines, turn queries and keys first. The output (B, H, 1, V) and the state after.
    """
    read = (queries, keys, values, turns, mask, projection, total, weight, maximum)
    made: Any = tuple(map(empty_like, (values, total, weight, maximum)))
    batch, heads, _, width = queries.shape
    step = 0 if turns is None or turns.numel() == width else width
    pointers = [None if x is None else x.data_ptr() for x in (*read, *made)]
    sizes = batch, heads, width, values.shape[3], len(projection), step, torch.get_num_threads()
    call("favor_step", Token(*pointers, *sizes, NOTHING))
    return made


def step(
    queries: Tensor, keys: Tensor, values: Tensor, turns: Tensor | None, projection: Tensor, mask: Tensor | None, state: FeatureState
) -> tuple[Tensor, FeatureState]:
    """One token (B, H, 1, K), without gradients, its queries and keys turned first: the output and the state after."""
    projection = projection.to(values.dtype)
    given = queries, keys, values, turns, mask, projection, state.total, state.weight, state.maximum
    output, *after = favor_step(*[None if x is None else x.contiguous() for x in given])
    return output, FeatureState(*after)
