"""Softmax pooling of turned positions by the C kernels, as operators that PyTorch knows: forward and backward, float32 on a CPU.

Axes: B batch, H heads, N length, K head width, D = H K.
"""

import ctypes
from typing import Any

from torch import Tensor

from ...core.layout import positions_first
from ...kernels.native.checks import asks, whole
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, Rows, fields, operator, positions, shares_of, turns_step

GIVEN: dict[str, Any] = dict(x="B H N K, rows", turns="N K | 1 1 N K | B 1 N K", weights="H H*K | B H H*K", live="B N, bool")
FITS = {"turns is None or K % 2 == 0": "channels are turned in pairs, got {K}"}
ROWS = ("queries", "output", "d_output", "d_queries", "d_more")
POINTERS = ("turns", "live", "weights", "logits", "normaliser", "mean", "d_mean", "d_weights", "sums")
SIZES = ("batch", "heads", "length", "width", "turns_step", "weights_step", "shares", "threads", "late")


class Pool(Arguments, layout="pool"):
    """``pool`` of pool.c."""

    _fields_ = [
        *((name, Rows) for name in ROWS),
        *((name, POINTER) for name in POINTERS),
        *((name, INT64) for name in SIZES),
        ("scale", ctypes.c_float),
    ]


def _call(name: str, x: Tensor, turns: Tensor | None, weights: Tensor, live: Tensor | None, late: bool, scale: float, **more: Any) -> None:
    batch, heads, length, width = x.shape
    shares = shares_of(batch, length)
    sums = x.new_empty(batch * shares * heads * (heads * whole(width) + 16))
    given = fields(
        queries=x, turns=turns, weights=weights, live=live, late=late, scale=scale, shares=shares,
        batch=batch, heads=heads, length=length, width=width,
        turns_step=turns_step(turns, length, width),
        weights_step=0 if weights.dim() == 2 else heads * heads * width,
        sums=sums, **more,
    )  # fmt: skip
    call(name, Pool(**given))


def _pool_like(
    x: Tensor, turns: Tensor | None, weights: Tensor, live: Tensor | None, late: bool, scale: float, write: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, heads, length, width = x.shape
    turned = positions_first(x) if write else x.new_empty(0)
    return x.new_empty(batch, heads, 1, width), turned, x.new_empty(batch, length, heads), x.new_empty(batch, heads, 2)


def _work_of_pool(x: Tensor, *_: Any) -> int:
    return positions(x) * (x.shape[1] + 1) * x.shape[3]


@operator(work=_work_of_pool, fake=_pool_like, check=asks(**GIVEN, require=FITS))
def pool(
    x: Tensor, turns: Tensor | None, weights: Tensor, live: Tensor | None, late: bool, scale: float, write: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The mean of turned positions under the softmax of their logits; all of a head's channels say how much a position counts for it.

    Args:
        x: (B, H, N, K).
        turns: (N, K) or (B, 1, N, K), cosines and then sines; None: nothing is turned.
        weights: (H, D) or (B, H, D), whose products with a position, times ``scale``, are the logits of its heads.
        live: (B, N), real tokens; None: all are.
        late: logits are of positions turned once, and the mean is of those turned twice; else of x, and of those turned once.
        write: give back what the mean is of.

    Returns:
        The mean (B, H, 1, K), zero where there is no real token; what it is of (B, H, N, K), or nothing; logits (B, N, H) to base 2, and
        their largest and 1 / the sum of exponentials relative to it (B, H, 2).
    """
    mean, turned, logits, normaliser = _pool_like(x, turns, weights, live, late, scale, write)
    more = dict(output=turned) if write else {}
    _call("pool_forward", x, turns, weights, live, late, scale, mean=mean, logits=logits, normaliser=normaliser, **more)
    return mean, turned, logits, normaliser


def _gradients_like(
    d_mean: Tensor, d_turned: Tensor | None, d_more: Tensor | None, x: Tensor, turns: Tensor | None, weights: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return positions_first(x), x.new_empty(x.shape[0], *weights.shape[-2:])


def _work_of_pool_backward(d_mean: Tensor, d_turned: Tensor | None, d_more: Tensor | None, x: Tensor, *_: Any) -> int:
    return positions(x) * (2 * x.shape[1] + 1) * x.shape[3]


@operator(
    work=_work_of_pool_backward,
    fake=_gradients_like,
    check=asks(
        **GIVEN, d_mean="B H 1 K", d_turned="B H N K, rows", d_more="B H N K, rows", mean="B H 1 K", logits="B N H", normaliser="B H 2",
        require=FITS,
    ),
)  # fmt: skip
def pool_backward(
    d_mean: Tensor,
    d_turned: Tensor | None,
    d_more: Tensor | None,
    x: Tensor,
    turns: Tensor | None,
    weights: Tensor,
    live: Tensor | None,
    late: bool,
    scale: float,
    mean: Tensor,
    logits: Tensor,
    normaliser: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of x, to which ``d_more`` is added, and of the weights (B, H, D)."""
    d_x, d_weights = _gradients_like(d_mean, d_turned, d_more, x, turns, weights)
    more = {name: x for name, x in (("d_output", d_turned), ("d_more", d_more)) if x is not None}
    _call(
        "pool_backward", x, turns, weights, live, late, scale,
        mean=mean, logits=logits, normaliser=normaliser, d_mean=d_mean, d_queries=d_x, d_weights=d_weights, **more,
    )  # fmt: skip
    return d_x, d_weights
