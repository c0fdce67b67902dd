"""Rotary position embedding (RoFormer, arXiv 2104.09864): rotate pairs of channels by an angle proportional to the position.

Axes: B batch, H heads, N length, K head width.
"""

import decimal
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core.backend import computed_by, is_traced
from ...core.numerics import has_float64
from ...core.tracing import needs_gradient
from . import native

BASE = 10000.0  # the paper's
LARGE_PRODUCT = 1 << 20  # numbers from which a product on a CPU is made in pieces
PIECE_NUMBERS = 1 << 18  # of a piece: it, what it is multiplied by and the product stay in a second-level cache
TURN = decimal.Decimal("6.2831853071795864769252867665590057683943387987502")  # 2 pi


def rotary_angles(positions: Tensor, width: int, *, base: float = BASE, dtype: torch.dtype | None = None) -> Tensor:
    """Angles of channel pairs, position times base^(-2 i / width).

    Args:
        positions: (..., N) integers.
        width: K; odd ones round up to pairs.
        base: of the rates.
        dtype: of the arithmetic. None: float64, in which angles are right to 1e-6 rad at positions up to 10^9, and to position times 1e-16
            beyond; on devices without it, float32 angles from integers, less whole turns, which are as right. float32, as published models
            have it, is off by position times 1e-7.

    Returns:
        (..., N, K / 2), float64 or float32.
    """
    if dtype is None and not has_float64(positions.device):
        return angles_from_integers(positions, width, base=base)
    dtype = dtype or torch.float64
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=dtype) / width
    return positions[..., None].to(dtype) * (1.0 / base**exponents)


def angles_from_integers(positions: Tensor, width: int, *, base: float = BASE) -> Tensor:
    """:func:`rotary_angles` in [-pi, pi] without float64: a rate is a fraction of a turn in 64 bits, and what overflows when a position is
    multiplied by it are whole turns."""
    parts = positions[..., None] * torch.tensor(_rates(width, base), dtype=torch.int64, device=positions.device)
    return parts.to(torch.float32) * (2 * math.pi / 2**64)


@functools.lru_cache
def _rates(width: int, base: float) -> list[int]:
    """Turns per position, in units of 2^-64."""
    with decimal.localcontext(prec=50):
        return [round(decimal.Decimal(base) ** (decimal.Decimal(-i) / width) / TURN * 2**64) for i in range(0, width, 2)]


def rotation(positions: Tensor, width: int) -> Tensor:
    """How far to turn heads of ``width`` channels at positions (N,) or (B, N): cosines and then sines, (N, K) or (B, 1, N, K) float32. Made
    once for all tensors and layers that share it."""
    angles = rotary_angles(positions, width)
    angles = angles[:, None] if angles.dim() == 3 else angles  # the same for every head
    # float64 up to here: neighbours far along a stream have large angles that hardly differ, and float32 rounds them.
    return torch.cat((angles.cos(), angles.sin()), dim=-1).to(torch.float32)


def is_rotation_of(turns: Tensor, x: Tensor) -> bool:
    """Whether ``turns`` are of the positions and the width of (B, H, N, K), and of its dtype: a kernel takes nothing else."""
    batch, _, *sizes = x.shape
    return turns.shape in ((*sizes,), (1, 1, *sizes), (batch, 1, *sizes)) and turns.dtype is x.dtype and turns.device == x.device


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate all channels of (B, H, N, K) by a :func:`rotation`, in pairs (0, K/2), (1, K/2 + 1), ...; in float32 at least."""
    if x.dtype is turns.dtype:
        return complex_product(x, turns)
    exact = torch.promote_types(x.dtype, turns.dtype)
    return complex_product(x.to(exact), turns.to(exact)).to(x.dtype)


def turn_both(queries: Tensor, keys: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`turn` of the queries and keys (B, H, N, K) of the same positions."""
    if queries.shape[2] > 1 or is_traced() or needs_gradient(queries, keys, turns) or queries.dtype is not keys.dtype:
        return turn(queries, turns), turn(keys, turns)
    first, second = turn(torch.cat((queries, keys), dim=2), turns).unbind(2)  # of one token: half as many small operations
    return first.unsqueeze(2), second.unsqueeze(2)


def complex_product(x: Tensor, y: Tensor, *, conjugate: bool = False) -> Tensor:
    """x times y, or times y's conjugate, where channels (i, i + K/2) are the parts of complex numbers.

    Args:
        x: (B, H, N, K).
        y: (..., K) that broadcasts to it.
        conjugate: of ``y``.

    Returns:
        (B, H, N, K).
    """
    computer = computed_by(None, x, native=functools.partial(native.suits, x, y))
    if computer == "formula":
        (a, b), (c, d) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
        d = -d if conjugate else d
        return torch.cat((a * c - b * d, a * d + b * c), dim=-1)
    multiply = native.complex_product if computer == "native" else _multiply
    return _Product.apply(x, y, conjugate, multiply) if needs_gradient(x, y) else multiply(x, y, conjugate)


class _Product(torch.autograd.Function):
    """Written into one result in four passes, where autograd would keep four products and join two halves, there and back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, conjugate: bool, multiply: Callable[[Tensor, Tensor, bool], Tensor]) -> Tensor:
        wants_x, wants_y = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if wants_y else None, y if wants_x else None)  # a turn's angles are given: x need not stay
        ctx.conjugate, ctx.shape = conjugate, y.shape
        return multiply(x, y, conjugate)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, y = ctx.saved_tensors
        dx = complex_product(gradient, y, conjugate=not ctx.conjugate) if ctx.needs_input_grad[0] else None
        dy = None
        if ctx.needs_input_grad[1]:
            dy = complex_product(x, gradient, conjugate=True) if ctx.conjugate else complex_product(gradient, x, conjugate=True)
            dy = dy.sum_to_size(ctx.shape)
        return dx, dy, None, None


def _multiply(x: Tensor, y: Tensor, conjugate: bool) -> Tensor:
    product, sign = torch.empty_like(x), -1.0 if conjugate else 1.0
    if x.device.type != "cpu" or x.numel() <= LARGE_PRODUCT:
        _multiply_into(product, x, y, sign)
        return product
    # Going through halves of rows that lie in memory, four times, takes twice as long as copying whole rows into a cache and out again.
    size = max(PIECE_NUMBERS * x.shape[-2] // x.numel(), 1)
    for start in range(0, x.shape[-2], size):
        here = (..., slice(start, start + size), slice(None))
        part, factor = x[here].clone(), y if y.shape[-2] == 1 else y[here]
        done = torch.empty_like(part)
        _multiply_into(done, part, factor.clone() if factor.shape == part.shape else factor, sign)
        product[here].copy_(done)
    return product


def _multiply_into(product: Tensor, x: Tensor, y: Tensor, sign: float) -> None:
    (a, b), (c, d), (real, imaginary) = x.chunk(2, dim=-1), y.chunk(2, dim=-1), product.chunk(2, dim=-1)
    torch.mul(a, c, out=real).addcmul_(b, d, value=-sign)
    torch.mul(b, c, out=imaginary).addcmul_(a, d, value=sign)


def apply_rotary(x: Tensor, angles: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotate the first ``2 * angles.shape[-1]`` channels of each head; the rest pass unchanged.

    Args:
        x: (B, H, N, K).
        angles: (N, P) or (B, N, P) with 2 P <= K, from :func:`rotary_angles`.
        interleaved: pairs are neighbours (0, 1), (2, 3), ... instead of the two halves (0, P), (1, P + 1), ...

    Returns:
        (B, H, N, K) in the dtype of ``x``.
    """
    if angles.dim() == 3:
        angles = angles[:, None]  # the same for every head
    width = 2 * angles.shape[-1]
    exact = torch.promote_types(x.dtype, torch.float32)
    cosine, sine = angles.cos().to(exact), angles.sin().to(exact)
    turned, rest = x[..., :width].to(exact), x[..., width:]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
        rotated = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        rotated = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    rotated = rotated.to(x.dtype)
    return torch.cat((rotated, rest), dim=-1) if rest.shape[-1] else rotated
