"""Linear maps of few rows by a C kernel (few_rows.c): float32 on a CPU, without gradients. Weights are float32, or int8 with a scale for
each output.

Axes: D width in, F width out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels.native.checks import check_tensor, required
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, operator

MAPS = 4  # that read the same, at most: as in few_rows.c
_POINTERS, _INT64S = POINTER * MAPS, INT64 * MAPS


class FewRows(Arguments, layout="few_rows"):
    """``few_rows`` of few_rows.c."""

    _fields_ = [
        ("x", POINTER), *((name, _POINTERS) for name in ("weight", "scale", "bias", "y")), ("out", _INT64S),
        *((name, INT64) for name in ("rows", "dim", "maps", "threads")),
    ]  # fmt: skip


Given = Sequence[Tensor | None]


def _mapped_like(x: Tensor, weights: Sequence[Tensor], scales: Given, biases: Given) -> list[Tensor]:
    shape = x.shape[:-1]
    return [x.new_empty(*shape, weight.shape[0]) for weight in weights]


def _check(x: Tensor, weights: Sequence[Tensor], scales: Given, biases: Given) -> None:
    name = "few_rows_maps"
    if not 1 <= len(weights) == len(scales) == len(biases) <= MAPS:
        raise ValueError(
            f"{name}: there must be 1 to {MAPS} weights and a scale and a bias or None for each, got {len(weights)}, {len(scales)} and "
            f"{len(biases)}"
        )
    x = required(name, "x", x)
    width = x.shape[-1] if x.dim() else -1
    if width < 0 or x.dtype is not torch.float32 or not x.is_contiguous():
        check_tensor(name, "x", x, (*x.shape[:-1], width))
    for index, (weight, scale, bias) in enumerate(zip(weights, scales, biases, strict=True)):
        # As check_tensor, which takes some microseconds, would ask.
        shape, dtype = required(name, f"weights[{index}]", weight).shape, torch.float32 if scale is None else torch.int8
        if len(shape) != 2 or shape[1] != width or weight.dtype is not dtype or not weight.is_contiguous():
            check_tensor(name, f"weights[{index}]", weight, (shape[0] if len(shape) == 2 else -1, width), dtype=dtype)
        for kind, given in (("scales", scale), ("biases", bias)):
            if given is not None and (given.shape != shape[:1] or given.dtype is not torch.float32 or not given.is_contiguous()):
                check_tensor(name, f"{kind}[{index}]", given, (shape[0],))


def _work_of_few_rows_maps(x: Tensor, weights: Sequence[Tensor], scales: Given, biases: Given) -> int:
    return x.shape[:-1].numel() * sum(weight.numel() for weight in weights)


@operator(work=_work_of_few_rows_maps, fake=_mapped_like, check=_check)
def few_rows_maps(
    x: Tensor, weights: Sequence[Tensor], scales: Sequence[Tensor | None], biases: Sequence[Tensor | None]
) -> list[Tensor]:
    """x W_j^T + b_j of the same x (..., D) by several maps (F_j, D) and (F_j,): (..., F_j) each. Where W_j is int8, (x W_j^T) s_j + b_j."""
    ys, rows = _mapped_like(x, weights, scales, biases), x.shape[:-1].numel()
    found = [_POINTERS(*[None if y is None else y.data_ptr() for y in tensors]) for tensors in (weights, scales, biases, ys)]
    outs = _INT64S(*[y.shape[-1] for y in ys])
    call("few_rows_maps", FewRows(x.data_ptr(), *found, outs, rows, x.shape[-1], len(ys), torch.get_num_threads()))
    return ys
