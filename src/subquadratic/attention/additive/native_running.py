"""Running softmax means by C kernels (running.c): as operators that PyTorch knows, with their backward, float32 on a CPU.

Kept for backward are the arguments, and the summary before every 64th position.

Axes: B batch, H heads, N length, K head width.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.backend import are_float32
from ...core.layout import dense_channels, positions_first
from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.native.checks import asks
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import CHUNK, INT64, POINTER, Rows, fields, operator, turns_step
from ...layers.rotary.op import complex_product, is_rotation_of, turn
from .formula import running_mean_by_formula
from .state import PoolState

GIVEN: dict[str, Any] = dict(
    values="B H N K, rows", queries="B H N K, rows", logits="B H N", turns="N K | 1 1 N K | B 1 N K", mask="B N, bool"
)
FITS = {"turns is None or K % 2 == 0": "channels are turned in pairs, got {K}"}
ROWS = ("values", "queries", "output", "d_output", "d_values", "d_queries")
POINTERS = ("logits", "d_logits", "turns", "live", "maximum", "weight", "total", "kept")


class Running(Arguments, layout="prefix_softmax"):
    """``running`` of running.c."""

    _fields_ = [
        *((name, Rows) for name in ROWS),
        *((name, POINTER) for name in POINTERS),
        *((name, INT64) for name in ("batch", "heads", "length", "width", "turns_step", "threads")),
    ]


def _call(
    name: str, logits: Tensor, values: Tensor, queries: Tensor | None, turns: Tensor | None, mask: Tensor | None, **more: Any
) -> None:
    batch, heads, length, width = values.shape
    given = fields(
        logits=logits, values=values, queries=queries, turns=turns, live=mask,
        turns_step=turns_step(turns, length, width),
        batch=batch, heads=heads, length=length, width=width, **more,
    )  # fmt: skip
    call(name, Running(**given))


def _mean_like(
    logits: Tensor, values: Tensor, queries: Tensor | None, turns: Tensor | None, mask: Tensor | None, maximum: Tensor, weight: Tensor,
    total: Tensor, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    batch, heads, length, width = values.shape
    kept = values.new_empty(-(-length // CHUNK) if keep else 0, batch, heads, 2 + width)
    return positions_first(values), torch.empty_like(maximum), torch.empty_like(weight), torch.empty_like(total), kept


def _work_of_running_mean(logits: Tensor, values: Tensor, *_: Any) -> int:
    return values.numel()


@operator(work=_work_of_running_mean, fake=_mean_like, check=asks(**GIVEN, maximum="B H 1", weight="B H 1", total="B H K", require=FITS))
def running_mean(
    logits: Tensor, values: Tensor, queries: Tensor | None, turns: Tensor | None, mask: Tensor | None, maximum: Tensor, weight: Tensor,
    total: Tensor, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The mean of ``values`` up to each position under the softmax of their ``logits``, and what ``queries`` make of it.

    Args:
        logits: (B, H, N).
        values: (B, H, N, K).
        queries: (B, H, N, K), to be multiplied by the mean; None: the mean itself is wanted.
        turns: (N, K) or (B, 1, N, K), cosines and then sines: values and queries are turned by them first, and the queries are multiplied
            by the mean's conjugate, channels (i, i + K/2) being the parts of complex numbers. None: no channel meets another.
        mask: (B, N), real tokens; None: all are.
        maximum, weight, total: the state before, (B, H, 1) twice and (B, H, K).
        keep: what backward needs in addition to the arguments.

    Returns:
        (B, H, N, K), the state after, and what is kept, (chunks, B, H, 2 + K) or nothing.
    """
    output, _, _, _, kept = _mean_like(logits, values, queries, turns, mask, maximum, weight, total, keep)
    maximum, weight, total = maximum.clone(), weight.clone(), total.clone()
    more = dict(maximum=maximum, weight=weight, total=total, kept=kept if keep else None)
    _call("prefix_softmax_forward", logits, values, queries, turns, mask, output=output, **more)
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
    mask: Tensor | None, kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of logits, values, queries (or nothing), and of the state's weight and total before, from those of the output and of weight
    and total after."""
    d_logits, d_values, d_queries, *_ = _gradients_like(d_output, d_weight, d_total, logits, values, queries)
    d_weight, d_total = d_weight.clone(), d_total.clone()
    _call(
        "prefix_softmax_backward", logits, values, queries, turns, mask, kept=kept, weight=d_weight, total=d_total, d_output=d_output,
        d_logits=d_logits, d_values=d_values, d_queries=None if queries is None else d_queries,
    )  # fmt: skip
    return d_logits, d_values, d_queries, d_weight, d_total


def fits(logits: Tensor, values: Tensor, queries: Tensor | None, state: PoolState, turns: Tensor | None = None) -> bool:
    """Whether the kernels are the faster way, and take what is given: there are several positions, and a head for every other thread, and
    all is of one kind and of shapes that fit (else PyTorch says which does not)."""
    batch, heads, length, width = values.shape
    return (
        length > 1
        and (torch.compiler.is_compiling() or 2 * batch * heads >= torch.get_num_threads())  # a compiler does not follow the latter
        and logits.shape == (batch, heads, length)
        and (queries is None or queries.shape == values.shape)
        and (turns is None or is_rotation_of(turns, values))
        and state.weight.shape == state.maximum.shape == (batch, heads, 1)
        and state.total.shape == (batch, heads, width)
        and are_float32(values.device, (logits, values, *state.tensors(), *(() if queries is None else (queries,))))
    )


def read_mean(
    logits: Tensor, values: Tensor, queries: Tensor | None, state: PoolState, mask: Tensor | None, turns: Tensor | None = None
) -> tuple[Tensor, PoolState]:
    """The running mean of ``values``, times ``queries`` where there are some, as the operator ``running_mean``; and the summary after."""
    output, *after = NativeRunningMean.apply(logits, values, queries, state.weight, state.total, turns, mask, state.maximum)
    return output, PoolState(*after)


def _composition(
    logits: Tensor,
    values: Tensor,
    queries: Tensor | None,
    weight: Tensor,
    total: Tensor,
    turns: Tensor | None,
    mask: Tensor | None,
    maximum: Tensor,
) -> tuple[Tensor, None, Tensor, Tensor]:
    values = values if turns is None else turn(values, turns)
    output, after = running_mean_by_formula(logits, values, mask, PoolState(maximum, weight, total), None)
    if queries is not None:
        output = queries * output if turns is None else complex_product(turn(queries, turns), output, conjugate=True)
    return output, None, after.weight, after.total


class NativeRunningMean(torch.autograd.Function):
    """(logits, values, queries, weight, total, turns, mask, maximum) -> output (B, H, N, K) and the state after it, as the operator
    ``running_mean``."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        values: Tensor,
        queries: Tensor | None,
        weight: Tensor,
        total: Tensor,
        turns: Tensor | None,
        mask: Tensor | None,
        maximum: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        again = any(ctx.needs_input_grad)
        state = (x.contiguous() for x in (maximum, weight, total))
        output, *after, summaries = running_mean(*_laid_out(logits, values, queries, turns, mask), *state, again)
        if again:
            keep(ctx, (logits, values, queries, weight, total, turns, mask, maximum), summaries)
        ctx.mark_non_differentiable(after[0])
        ctx.set_materialize_grads(False)
        return output, *after

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_output: Tensor | None, _: None, d_weight: Tensor | None, d_total: Tensor | None) -> tuple[Tensor | None, ...]:
        (logits, values, queries, _, _, turns, mask, _), (summaries,) = kept(ctx)
        given = _laid_out(logits, values, queries, turns, mask)
        batch, heads, _, width = values.shape
        d_output = values.new_zeros(values.shape) if d_output is None else dense_channels(d_output)
        d_weight = values.new_zeros(batch, heads, 1) if d_weight is None else d_weight.contiguous()
        d_total = values.new_zeros(batch, heads, width) if d_total is None else d_total.contiguous()
        found = running_mean_backward(d_output, d_weight, d_total, *given, summaries)
        return *(x if need else None for x, need in zip(found, ctx.needs_input_grad, strict=False)), None, None, None


def _laid_out(
    logits: Tensor, values: Tensor, queries: Tensor | None, turns: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """As the kernels want them."""
    turns, mask = (None if x is None else x.contiguous() for x in (turns, mask))
    return logits.contiguous(), dense_channels(values), None if queries is None else dense_channels(queries), turns, mask
