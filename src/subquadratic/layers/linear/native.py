"""Linear maps of many rows by the processor's matrix unit: float32 on a CPU, with their backward.

Axes: B batch, T rows (batch and length together), D width in, F width out, N length, R slots.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...kernels.derivatives import is_followed
from ...kernels.native.checks import check_tensor, required, whole
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, fields, operator

SIDE, DEPTH, PARTS = 16, 32, 3  # of a tile, and of a number: as in matrix_unit.h
MAPS = 4  # that share an input or a sum, at most: as in linear.c
_POINTERS, _INT64S, _PAIRS, _STEPS = POINTER * MAPS, INT64 * MAPS, POINTER * MAPS**2, INT64 * MAPS**2


class Maps(Arguments, layout="linear"):
    """``maps`` of linear.c."""

    _fields_ = [
        ("x", _POINTERS), ("weight", _PAIRS), ("bias", _POINTERS), ("plus", POINTER), ("other", _POINTERS), ("y", _PAIRS),
        ("row_sum", _POINTERS), ("packed", POINTER), ("sums", POINTER),
        ("dim", _INT64S), ("x_step", _INT64S), ("out", _INT64S), ("other_step", _INT64S), ("weight_step", _STEPS), ("turned", _STEPS),
        *((name, INT64) for name in ("plus_step", "inputs", "outputs", "rows", "shares", "threads")),
    ]  # fmt: skip


def _mapped_like(xs: Sequence[Tensor], weights: Sequence[Tensor], *_: Any) -> list[Tensor]:
    return [xs[0].new_empty(xs[0].shape[0], weight.shape[0]) for weight in weights[: len(weights) // len(xs)]]


def _check_maps(xs: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor | None], plus: Tensor | None) -> None:
    name, inputs, outputs = "linear_maps", len(xs), len(biases)
    if not (1 <= inputs <= MAPS and 1 <= outputs <= MAPS and len(weights) == inputs * outputs):
        raise ValueError(
            f"{name}: of 1 to {MAPS} inputs and outputs (a bias or None for each) there must be a weight for every pair, got {inputs} "
            f"inputs, {outputs} biases and {len(weights)} weights"
        )
    rows = _check_rows(name, "xs", xs)
    weights = [required(name, f"weights[{index}]", weight) for index, weight in enumerate(weights)]
    for index, weight in enumerate(weights):
        x, first = xs[index // outputs], weights[index % outputs]
        shape = (first.shape[0] if first.dim() == 2 else -1, x.shape[1])
        by_row = weight.dim() != 2 or weight.stride(1) == 1 or weight.shape[1] == 1
        check_tensor(name, f"weights[{index}]", weight if by_row else weight.T, shape if by_row else shape[::-1], layout="rows")
    for index, bias in enumerate(biases):
        if bias is not None:
            check_tensor(name, f"biases[{index}]", bias, (weights[index].shape[0],))
    if plus is not None:
        check_tensor(name, "plus", plus, (rows, weights[0].shape[0]), layout="rows")


def _check_rows(operator: str, name: str, tensors: Sequence[Tensor]) -> int:
    """Whether all are (T, .) of one T, which comes back."""
    tensors = [required(operator, f"{name}[{index}]", x) for index, x in enumerate(tensors)]
    rows = tensors[0].shape[0] if tensors[0].dim() == 2 else -1
    for index, x in enumerate(tensors):
        check_tensor(operator, f"{name}[{index}]", x, (rows, x.shape[1] if x.dim() == 2 else -1), layout="rows")
    return rows


def _work_of_linear_maps(xs: list[Tensor], weights: list[Tensor], *_: Any) -> int:
    return len(xs[0]) * sum(weight.numel() for weight in weights)


@operator(work=_work_of_linear_maps, fake=_mapped_like, check=_check_maps)
def linear_maps(xs: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor | None], plus: Tensor | None) -> list[Tensor]:
    """Maps that read the same, or are added up, in one go: of an output j the sum of x_i W_ij^T over the inputs i, and b_j.

    Args:
        xs: inputs (T, D_i). Rows may lie apart, their numbers not.
        weights: (F_j, D_i), those of the first input first; rows or columns may lie apart, the numbers of one of them not.
        biases: (F_j,), one for each output.
        plus: (T, F_0), added to the first output.
    """
    ys = _mapped_like(xs, weights)
    rows, dims, outs = len(xs[0]), [x.shape[1] for x in xs], [y.shape[1] for y in ys]
    turned = [weight.stride(1) != 1 and weight.shape[1] != 1 for weight in weights]
    numbers = sum(whole(weight.shape[0], SIDE) * whole(weight.shape[1], DEPTH) for weight in weights) * PARTS // 2
    packed = xs[0].new_empty(numbers)
    given = fields(
        x=_POINTERS(*map(Tensor.data_ptr, xs)), weight=_PAIRS(*map(Tensor.data_ptr, weights)),
        bias=_POINTERS(*(None if bias is None else bias.data_ptr() for bias in biases)), y=_PAIRS(*map(Tensor.data_ptr, ys)), packed=packed,
        dim=_INT64S(*dims), out=_INT64S(*outs), x_step=_INT64S(*(x.stride(0) for x in xs)), turned=_STEPS(*turned),
        weight_step=_STEPS(*(weight.stride(1 if t else 0) for weight, t in zip(weights, turned, strict=True))),
        inputs=len(xs), outputs=len(ys), rows=rows,
    )  # fmt: skip
    if plus is not None:
        given |= {"plus": plus.data_ptr(), "plus_step": plus.stride(0)}
    call("linear_maps", Maps(**given))
    return ys


def _summed_like(others: Sequence[Tensor], xs: Sequence[Tensor], wants_rows: Sequence[bool]) -> list[Tensor]:
    sums = [x.new_empty(other.shape[1], x.shape[1]) for x in xs for other in others]
    return sums + [other.new_empty(other.shape[1] if wants else 0) for other, wants in zip(others, wants_rows, strict=True)]


def _check_sums(others: Sequence[Tensor], xs: Sequence[Tensor], wants_rows: Sequence[bool]) -> None:
    name = "sums_of_outer_products"
    if not (1 <= len(others) <= MAPS and 1 <= len(xs) <= MAPS and len(wants_rows) == len(others)):
        raise ValueError(
            f"{name}: there must be 1 to {MAPS} tensors in others and in xs, and a wish for each other, got {len(others)}, {len(xs)} and "
            f"{len(wants_rows)}"
        )
    rows = _check_rows(name, "others", others)
    if _check_rows(name, "xs", xs) != rows:
        raise ValueError(f"{name}: others and xs must have as many rows, got {rows} and {xs[0].shape[0]}")


def _work_of_sums_of_outer_products(others: list[Tensor], xs: list[Tensor], *_: Any) -> int:
    return sum(other.numel() * x.shape[1] for other in others for x in xs)


@operator(work=_work_of_sums_of_outer_products, fake=_summed_like, check=_check_sums)
def sums_of_outer_products(others: Sequence[Tensor], xs: Sequence[Tensor], wants_rows: Sequence[bool]) -> list[Tensor]:
    """Of each x_i (T, D_i) and other_j (T, F_j) the sum other_j^T x_i over the rows, (F_j, D_i), those of the first x first; then for each
    other the sum of its rows (F_j,), or nothing. Rows may lie apart, their numbers not."""
    found = _summed_like(others, xs, wants_rows)
    rows, dims, outs = len(xs[0]), [x.shape[1] for x in xs], [other.shape[1] for other in others]
    pairs = len(xs) * len(others)
    shares = max(1, min(torch.get_num_threads(), rows // 128))
    sums = xs[0].new_empty(shares * sum(out * (sum(map(whole, dims))) + whole(out) for out in outs))
    given = fields(
        x=_POINTERS(*map(Tensor.data_ptr, xs)), other=_POINTERS(*map(Tensor.data_ptr, others)),
        y=_PAIRS(*map(Tensor.data_ptr, found[:pairs])),
        row_sum=_POINTERS(*(row.data_ptr() if wants else None for row, wants in zip(found[pairs:], wants_rows, strict=True))), sums=sums,
        dim=_INT64S(*dims), out=_INT64S(*outs), x_step=_INT64S(*(x.stride(0) for x in xs)),
        other_step=_INT64S(*(other.stride(0) for other in others)), inputs=len(xs), outputs=len(others), rows=rows, shares=shares,
    )  # fmt: skip
    call("sums_of_outer_products", Maps(**given))
    return found


def linear_by_unit(x: Tensor, maps: Sequence[tuple[Tensor, Tensor | None]], plus: Tensor | None) -> list[Tensor]:
    given = [None if bias is None else bias.contiguous() for _, bias in maps]
    flat = None if plus is None else plus.reshape(-1, plus.shape[-1])
    ys = NativeMaps.apply(x.reshape(-1, x.shape[-1]), flat, *(weight for weight, _ in maps), *given)
    return [y.view(*x.shape[:-1], y.shape[1]) for y in ys]


def outer_sum_by_unit(other: Tensor, x: Tensor) -> Tensor:
    """other^T x of (T, F) and (T, D): (F, D), without gradient."""
    return sums_of_outer_products([_dense_rows(other)], [_dense_rows(x)], [False])[0]


class NativeMaps(torch.autograd.Function):
    """(x (T, D), plus (T, F), weights, biases) -> x W^T + b of each map, plus added to the first, by the matrix unit. Where it is
    followed its backward is itself differentiated, by PyTorch's operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plus: Tensor | None, *maps: Tensor | None) -> tuple[Tensor, ...]:
        weights: Any = maps[: len(maps) // 2]
        ctx.save_for_backward(x, *weights)
        plus = None if plus is None else _dense_rows(plus)
        return tuple(linear_maps([_dense_rows(x)], _dense_either_way(weights), list(maps[len(weights) :]), plus))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        wants_x, wants_plus, *wants = ctx.needs_input_grad
        wants_biases = wants[len(weights) :]
        d_x: Any = None
        d_weights: list[Any] = [None] * len(weights)
        d_biases = d_weights
        if is_followed():
            d_x = sum(gradient @ weight for gradient, weight in zip(gradients, weights, strict=True)) if wants_x else None
            d_weights, d_biases = [gradient.T @ x for gradient in gradients], [gradient.sum(dim=0) for gradient in gradients]
        else:
            rows = [_dense_rows(gradient) for gradient in gradients]
            if wants_x:
                d_x = linear_maps(rows, [weight.T for weight in _dense_either_way(weights)], [None], None)[0]
            if any(wants[: len(weights)]):
                found = sums_of_outer_products(rows, [_dense_rows(x)], wants_biases)
                d_weights, d_biases = found[: len(weights)], found[len(weights) :]
            elif any(wants_biases):
                d_biases = [gradient.sum(dim=0) for gradient in gradients]
        d_maps = (found if want else None for found, want in zip((*d_weights, *d_biases), wants, strict=True))
        return d_x, gradients[0] if wants_plus else None, *d_maps


def _dense_rows(x: Tensor) -> Tensor:
    """With each row's numbers one after the other."""
    return x if x.stride(1) == 1 else x.contiguous()


def map_by_unit(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T of (T, D) and (F, D), without gradient."""
    return linear_maps([_dense_rows(x)], _dense_either_way([weight]), [None], None)[0]


def _dense_either_way(weights: Sequence[Tensor]) -> list[Tensor]:
    """With the numbers of each row or of each column one after the other."""
    return [weight if 1 in weight.stride() else weight.contiguous() for weight in weights]
