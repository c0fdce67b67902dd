"""The softmax-weighted mean of everything up to each position by the C kernels, as operators that PyTorch knows: forward and backward,
float32 on a CPU.

Axes: B batch, H heads, N length, K head width.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.layout import positions_first
from ...kernels.native.checks import asks
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import CHUNK, INT64, POINTER, Rows, fields, operator, turns_step

GIVEN: dict[str, Any] = dict(
    values="B H N K, rows", queries="B H N K, rows", logits="B H N", turns="N K | 1 1 N K | B 1 N K", live="B N, bool"
)
FITS = {"turns is None or K % 2 == 0": "channels are turned in pairs, got {K}"}
ROWS = ("values", "queries", "output", "d_output", "d_values", "d_queries")
POINTERS = ("logits", "d_logits", "turns", "live", "maximum", "weight", "total", "kept")


class Running(Arguments, layout="prefix_softmax"):
    """``running`` of prefix_softmax.c."""

    _fields_ = [
        *((name, Rows) for name in ROWS),
        *((name, POINTER) for name in POINTERS),
        *((name, INT64) for name in ("batch", "heads", "length", "width", "turns_step", "threads")),
    ]


def _call(
    name: str, logits: Tensor, values: Tensor, queries: Tensor | None, turns: Tensor | None, live: Tensor | None, **more: Any
) -> None:
    batch, heads, length, width = values.shape
    given = fields(
        logits=logits, values=values, queries=queries, turns=turns, live=live,
        turns_step=turns_step(turns, length, width),
        batch=batch, heads=heads, length=length, width=width, **more,
    )  # fmt: skip
    call(name, Running(**given))


def _mean_like(
    logits: Tensor, values: Tensor, queries: Tensor | None, turns: Tensor | None, live: Tensor | None, maximum: Tensor, weight: Tensor,
    total: Tensor, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    batch, heads, length, width = values.shape
    kept = values.new_empty(-(-length // CHUNK) if keep else 0, batch, heads, 2 + width)
    return positions_first(values), torch.empty_like(maximum), torch.empty_like(weight), torch.empty_like(total), kept


def _work_of_running_mean(logits: Tensor, values: Tensor, *_: Any) -> int:
    return values.numel()


@operator(work=_work_of_running_mean, fake=_mean_like, check=asks(**GIVEN, maximum="B H 1", weight="B H 1", total="B H K", require=FITS))
def running_mean(
    logits: Tensor, values: Tensor, queries: Tensor | None, turns: Tensor | None, live: Tensor | None, maximum: Tensor, weight: Tensor,
    total: Tensor, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The mean of ``values`` up to each position under the softmax of their ``logits``, and what ``queries`` make of it.

    Args:
        logits: (B, H, N).
        values: (B, H, N, K).
        queries: (B, H, N, K), to be multiplied by the mean; None: the mean itself is wanted.
        turns: (N, K) or (B, 1, N, K), cosines and then sines: values and queries are turned by them first, and the queries are multiplied
            by the mean's conjugate, channels (i, i + K/2) being the parts of complex numbers. None: no channel meets another.
        live: (B, N), real tokens; None: all are.
        maximum, weight, total: the state before, (B, H, 1) twice and (B, H, K).
        keep: what backward needs in addition to the arguments.

    Returns:
        (B, H, N, K), the state after, and what is kept, (chunks, B, H, 2 + K) or nothing.
    """
    output, _, _, _, kept = _mean_like(logits, values, queries, turns, live, maximum, weight, total, keep)
    maximum, weight, total = maximum.clone(), weight.clone(), total.clone()
    more = dict(maximum=maximum, weight=weight, total=total, kept=kept if keep else None)
    _call("prefix_softmax_forward", logits, values, queries, turns, live, output=output, **more)
    return output, maximum, weight, total, kept


def _gradients_like(
    d_output: Tensor, d_weight: Tensor, d_total: Tensor, logits: Tensor, values: Tensor, queries: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_queries = values.new_empty(0) if queries is None else positions_first(queries)
    return torch.empty_like(logits), positions_first(values), d_queries, torch.empty_like(d_weight), torch.empty_like(d_total)


def _work_of_running_mean_backward(d_output: Tensor, *_: Any) -> int:
    return 2 * d_output.numel()


@operator(
    work=_work_of_running_mean_backward,
    fake=_gradients_like,
    check=asks(
        **GIVEN, d_output="B H N K, rows", d_weight="B H 1", d_total="B H K", kept="C B H 2+K", sizes={"C": "-(-N // 64)"}, require=FITS
    ),
)
def running_mean_backward(
    d_output: Tensor, d_weight: Tensor, d_total: Tensor, logits: Tensor, values: Tensor, queries: Tensor | None, turns: Tensor | None,
    live: Tensor | None, kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of logits, values, queries (or nothing), and of the state's weight and total before, from those of the output and of weight
    and total after."""
    d_logits, d_values, d_queries, *_ = _gradients_like(d_output, d_weight, d_total, logits, values, queries)
    d_weight, d_total = d_weight.clone(), d_total.clone()
    _call(
        "prefix_softmax_backward", logits, values, queries, turns, live, kept=kept, weight=d_weight, total=d_total, d_output=d_output,
        d_logits=d_logits, d_values=d_values, d_queries=None if queries is None else d_queries,
    )  # fmt: skip
    return d_logits, d_values, d_queries, d_weight, d_total
