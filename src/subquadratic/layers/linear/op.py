"""x W^T + b, and sums over rows, by whichever is the fastest for float32 on this CPU.

PyTorch multiplies float32 matrices with MKL. On AMD processors that leaves AVX-512 unused; oneDNN, which PyTorch has too, uses it. On Intel
processors with AMX the C kernels have the matrix unit compute (`kernels/native/matrix_unit.h`). All are exact to rounding. The choice
depends on the processor and the shapes alone, never on a clock, so that a run repeats bit for bit.

Axes: B batch, T rows (batch and length together), D width in, F width out, N length, R slots.
"""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.backend import PLAIN, are_float32, is_traced, takes_native
from ...core.tracing import needs_gradient
from ...kernels.derivatives import is_followed
from ...kernels.native.library import has_matrix_unit
from . import native
from .few_rows import MAPS, few_rows_maps

FEW_ROWS = 8  # new tokens: the time is that of reading the weights
ONE_BY_ONE = 4  # so few that oneDNN is never the fastest
FEW_ROWS_HERE = 64  # the same where no library has kernels of its own for few rows
FEW_NUMBERS = 1 << 14  # weights that are read in the time that a call of a kernel takes
# Multiply-adds below which handing matrices over to oneDNN (some 12 us) costs what its kernels save, by the processor family that
# /proc/cpuinfo gives: on Zen 5 they take half of MKL's time, on Zen 4 a tenth less.
ZEN_5, LEAST_WORK, LEAST_WORK_BEFORE = 26, 1 << 22, 1 << 26
GRADIENTS = 2  # times as many where autograd calls back into Python
FEWEST_OF_UNIT, NARROWEST_OF_UNIT = 512, 64  # the same of the matrix unit, whose operands are split first; widths in and out

Product = Callable[[Tensor, Tensor], Tensor]
Maps = Sequence[tuple[Tensor, Tensor | None]]  # weights (F, D), and biases (F,)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, plus: Tensor | None = None) -> Tensor:
    """As ``torch.nn.functional.linear``: (..., D), (F, D), (F,) -> (..., F), to which ``plus`` (..., F) is added. Twice differentiable,
    like that."""
    if _is_for_unit(x) and _fits_unit(x, weight, bias) and (plus is None or _can_be_added(plus, x, weight)):
        return native.linear_by_unit(x, [(weight, bias)], plus)[0]
    y = _linear(x, weight, bias)
    return y if plus is None else y + plus


def linear_together(x: Tensor, maps: Maps) -> list[Tensor]:
    """``linear`` of the same (..., D) by several maps."""
    if not _is_for_unit(x):
        few = by_few_rows(x, maps)
        return [_by_library(x, *map_) for map_ in maps] if few is None else few
    fits = [_fits_unit(x, *map_) for map_ in maps]
    if all(fits) and len(maps) <= native.MAPS:
        return native.linear_by_unit(x, maps, None)
    return [native.linear_by_unit(x, [map_], None)[0] if fit else _linear(x, *map_) for map_, fit in zip(maps, fits, strict=True)]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Not by the matrix unit."""
    few = by_few_rows(x, [(weight, bias)])
    return _by_library(x, weight, bias) if few is None else few[0]


def _by_library(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """By oneDNN or PyTorch."""
    if torch.compiler.is_compiling():  # before a look at sizes, which an export may leave open
        return F.linear(x, weight, bias)
    rows, least = x.numel() // max(x.shape[-1], 1), least_work()
    if least is None or is_traced() or not _are_plain(x, weight, bias):
        return F.linear(x, weight, bias)
    recorded = needs_gradient(x, weight, *(() if bias is None else (bias,)))
    if rows > ONE_BY_ONE and rows * weight.numel() >= least * (GRADIENTS if recorded else 1):
        flat = x.reshape(rows, x.shape[-1])
        y = _Linear.apply(flat, weight, bias) if recorded else _by_onednn(flat, weight, bias)
        return y.view(*x.shape[:-1], weight.shape[0])
    parts = parts_of(weight) if 0 < rows <= FEW_ROWS and not recorded else None
    return F.linear(x, weight, bias) if parts is None else _in_bands(x, weight, bias, rows, parts)


def by_few_rows(x: Tensor, maps: Maps, scales: Sequence[Tensor] | None = None) -> list[Tensor] | None:
    """Several maps of the same few rows (..., D) by the C kernel; None where it cannot be taken, or is not the fastest. ``scales`` (F,): of
    the outputs of weights that are int8."""
    if torch.compiler.is_compiling() or not x.is_cpu:
        return None
    most = most_few_rows() if scales is None else FEW_ROWS_HERE
    if not 0 < x.numel() <= most * x.shape[-1]:
        return None
    weights, biases = [weight for weight, _ in maps], [bias for _, bias in maps]
    if len(maps) > MAPS or sum(map(Tensor.numel, weights)) < FEW_NUMBERS or not takes_native(None, x):
        return None
    given = [None] * len(maps) if scales is None else scales
    for (weight, bias), scale in zip(maps, given, strict=True):
        plain = _are_plain(x, weight, bias) if scale is None else _are_plain(x, scale, bias) and type(weight) in PLAIN
        fits = plain and weight.shape[1:] == x.shape[-1:] and weight.is_contiguous()
        if not fits or (bias is not None and (bias.shape != weight.shape[:1] or type(bias) not in PLAIN or not bias.is_contiguous())):
            return None
    if torch.is_grad_enabled() and needs_gradient(x, *weights, *(bias for bias in biases if bias is not None)):
        return None
    return few_rows_maps(x.contiguous(), weights, given, biases)


@functools.cache
def most_few_rows() -> int:
    """Up to how many rows the kernel for few rows is the fastest: MKL has AVX-512 for them on Intel's processors."""
    return FEW_ROWS if least_work() is None else FEW_ROWS_HERE


def slot_sums(weights: Tensor, x: Tensor) -> Tensor:
    """E^T x of slots' weights (N, R) or (B, N, R) and a sequence (B, N, D): (B, R, D). Twice differentiable."""
    if torch.compiler.is_compiling():
        return weights.transpose(-1, -2) @ x
    fits = weights.shape[-2] == x.shape[1] and weights.shape[:-2] in ((), (1,), x.shape[:1])
    many = x.shape[1] >= FEWEST_OF_UNIT and min(weights.shape[-1], x.shape[-1]) >= NARROWEST_OF_UNIT
    if not (fits and many and not is_traced() and _are_plain(x, weights, None)):
        return weights.transpose(-1, -2) @ x
    if _is_for_unit(x):
        return _SlotSums.apply(weights, x, native.outer_sum_by_unit, native.map_by_unit)
    least = least_work()
    if least is None or GRADIENTS * least > x.shape[1] * x.shape[2] * weights.shape[-1]:
        return weights.transpose(-1, -2) @ x
    return _SlotSums.apply(weights, x, _outer_sum_by_onednn, _by_onednn)


def outer_sum(other: Tensor, x: Tensor) -> Tensor:
    """other^T x of (T, F) and (T, D): (F, D), for passes that autograd does not record."""
    many = len(x) >= FEWEST_OF_UNIT and min(other.shape[1], x.shape[1]) >= NARROWEST_OF_UNIT
    if not (len(other) == len(x) and many and not is_traced() and _are_plain(x, other, None)):
        return other.T @ x
    if _is_for_unit(x):
        return native.outer_sum_by_unit(other, x)
    least = least_work()
    return other.T @ x if least is None or other.numel() * x.shape[1] < least else _outer_sum_by_onednn(other, x)


def parts_of(weight: Tensor) -> int | None:
    """In how many bands of rows a product of W (F, D) by a few columns goes fastest, as a batch of products; None: in one, or unknown.

    For a few rows by a matrix MKL reads weights that are in no cache at 8 GB/s, and in this way, with all threads, at 30. Measured on
    an AMD processor with two threads; not done where oneDNN is not the faster one either.
    """
    parts = 4 if weight.shape[0] % 4 == 0 else 2
    return parts if weight.shape[0] % parts == 0 and weight.is_contiguous() and onednn_is_faster() else None


def _in_bands(x: Tensor, weight: Tensor, bias: Tensor | None, rows: int, parts: int) -> Tensor:
    width, inner = weight.shape
    # The columns must lie one after the other, even a single one, of which one view takes a third of the time of three.
    if rows == 1 and x.is_contiguous():
        columns = x.as_strided((parts, inner, 1), (0, 1, inner))
    else:
        columns = x.reshape(1, rows, inner).transpose(1, 2).expand(parts, inner, rows)
    bands = weight.view(parts, width // parts, inner)
    y = torch.bmm(bands, columns) if bias is None else torch.baddbmm(bias.view(parts, width // parts, 1), bands, columns)
    if rows == 1:
        return y.view(*x.shape[:-1], width)
    return y.view(width, rows).T.contiguous().view(*x.shape[:-1], width)


def _is_for_unit(x: Tensor) -> bool:
    """Whether there are rows enough of (..., D) for the matrix unit, and one to compute them here, whatever they are multiplied by."""
    if torch.compiler.is_compiling():
        return False
    many = x.numel() >= FEWEST_OF_UNIT * x.shape[-1]
    return many and not is_traced() and _is_plain(x) and takes_native(None, x) and has_matrix_unit()


def _fits_unit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the map is wide enough for the matrix unit, and its shapes fit (else PyTorch says which does not)."""
    return (
        x.shape[-1:] == weight.shape[1:]
        and min(weight.shape) >= NARROWEST_OF_UNIT
        and (bias is None or bias.shape == weight.shape[:1])
        and _are_plain(x, weight, bias)
    )


def _can_be_added(plus: Tensor, x: Tensor, weight: Tensor) -> bool:
    return type(plus) in PLAIN and are_float32(x.device, (plus,)) and plus.shape == (*x.shape[:-1], len(weight))


def _is_plain(x: Tensor) -> bool:
    """Float32 on the CPU, of no kind that has products of its own, and outside of autocast."""
    return x.is_cpu and x.dtype is torch.float32 and type(x) in PLAIN and not torch.is_autocast_enabled("cpu")


def _are_plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """The same of all three; a bias has no products of its own."""
    ours = _is_plain(x) and weight.is_cpu and weight.dtype is torch.float32 and type(weight) in PLAIN
    return ours and (bias is None or (bias.is_cpu and bias.dtype is torch.float32))


def onednn_is_faster() -> bool:
    """Than MKL, for large matrices."""
    return least_work() is not None


@functools.cache
def least_work() -> int | None:
    """Multiply-adds from which oneDNN is the faster library; None: never. AMD with AVX-512, and a PyTorch that has the operator (a private
    one, which its own compiler uses)."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return None
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return None
    if "AuthenticAMD" not in text or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    family = re.search(r"^cpu family\s*: (\d+)$", text, flags=re.M)
    return LEAST_WORK if family is not None and int(family[1]) >= ZEN_5 else LEAST_WORK_BEFORE


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    weight = weight if weight.is_contiguous() or weight.T.is_contiguous() else weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def _outer_sum_by_onednn(other: Tensor, x: Tensor) -> Tensor:
    """other^T x of (T, F) and (T, D). The narrower side gives the rows, which takes up to a third of the time that the other way takes."""
    return _by_onednn(other.T, x.T) if other.shape[1] <= x.shape[1] else _by_onednn(x.T, other.T).T


class _SlotSums(torch.autograd.Function):
    """E^T x of (N, R), (1, N, R) or (B, N, R) and (B, N, D), by the products given: ``outer(other, x)``, other^T x, and
    ``linear(x, weight)``, x W^T. Where it is followed its backward is itself differentiated, by PyTorch's operators."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, outer: Product, linear: Product) -> Tensor:
        ctx.save_for_backward(weights, x)
        ctx.linear = linear
        rows = weights.expand(len(x), -1, -1)
        return _joined([outer(one, other) for one, other in zip(rows, x, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights, x = ctx.saved_tensors
        product = F.linear if is_followed() else ctx.linear
        d_weights = d_x = None
        if ctx.needs_input_grad[0]:
            d_weights = _joined([product(one, given) for one, given in zip(x, gradient, strict=True)])
            d_weights = d_weights.sum_to_size(weights.shape) if d_weights.numel() > weights.numel() else d_weights.view(weights.shape)
        if ctx.needs_input_grad[1]:
            rows = weights.expand(len(x), -1, -1)
            d_x = _joined([product(one, given.T) for one, given in zip(rows, gradient, strict=True)])
        return d_weights, d_x, None, None


def _joined(rows: list[Tensor]) -> Tensor:
    return torch.stack(rows) if len(rows) > 1 else rows[0][None]  # of one sequence nothing is copied


class _Linear(torch.autograd.Function):
    """x W^T + b by oneDNN. Where it is followed its backward is itself differentiated, by PyTorch's operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _by_onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        d_x = d_weight = None
        if is_followed():
            d_x, d_weight = gradient @ weight if wants_x else None, gradient.T @ x if wants_weight else None
        else:
            d_x = _by_onednn(gradient, weight.T) if wants_x else None
            d_weight = _outer_sum_by_onednn(gradient, x) if wants_weight else None
        return d_x, d_weight, gradient.sum(dim=0) if wants_bias else None
