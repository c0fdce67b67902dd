"""Causal FAVOR+ by C kernels (causal.c): as operators that PyTorch knows, with their backward, float32 on a CPU.

The maths is that of `causal.py`. Kept for backward are the arguments, the output, a normaliser a position, and the summary before each
chunk, or of a long sequence before every few.

Axes: B batch, H heads, N length, K head width, V width of values, M features, R runs (documents, or rows of the batch), G chunks.
"""

import itertools
from typing import Any

import torch
from torch import Tensor

from ...core.layout import dense_channels, positions_first
from ...core.packed import document_chunks
from ...kernels.derivatives import differentiable, keep, kept
from ...kernels.native.checks import asks, check_tensor
from ...kernels.native.operators import CHUNK, operator, positions, shares_of
from .causal import causal_by_formula
from .formula import zero_keys
from .native import call_with, laid_out, room_for_sums

MOST_KEPT = 1 << 26  # numbers (256 MB) that the summaries before all chunks may be; beyond, those before every few are kept
WORK_DONE_AGAIN = 0.4  # of a causal call's work, what it does once more where threads share a head
BOUNDS = "B == 1 and bounds[0] == 0 and bounds[-1] == N and all(a <= b for a, b in zip(bounds, bounds[1:]))"
RUNS: dict[str, Any] = dict(  # of packed documents, each of which has a state, or of the batch
    sizes={"R": "len(bounds) - 1 if bounds else B"},
    require={f"not bounds or {BOUNDS}": "bounds must rise from 0 to the length {N} of one row, got {bounds} for {B} rows"},
)


class Plan:
    """The runs of positions that share a state, and what is kept of them."""

    def __init__(self, bounds: list[int], values: Tensor, features: int):
        batch, self.heads, self.length, self.value_width = values.shape
        spans = [(0, a, b) for a, b in itertools.pairwise(bounds)] or [(row, 0, self.length) for row in range(batch)]
        chunks = [-(-(stop - start) // CHUNK) for _, start, stop in spans]
        self.each = features * (self.value_width + 1)
        longest = max((stop - start for _, start, stop in spans), default=0)
        self.shares = shares_of(len(spans) * self.heads, longest, again=WORK_DONE_AGAIN)
        self.stride = max(1, -(-sum(chunks) * self.heads * self.each // MOST_KEPT))
        self.marks = self.kept = 0
        runs = []
        for span, count in zip(spans, chunks, strict=True):
            runs.append((*span, self.marks, self.kept))
            self.marks, self.kept = self.marks + count + 1, self.kept + -(-count // self.stride)
        self.runs = runs

    def empty(self, values: Tensor, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Storage for the normaliser (B, H, N), marks and summaries; of nothing where nothing is kept."""
        if not keep:
            return values.new_empty(0), values.new_empty(0), values.new_empty(0)
        return (
            values.new_empty(values.shape[:-1]),
            values.new_empty(self.marks, self.heads),
            values.new_empty(self.kept, self.heads, self.each),
        )


def _common(plan: Plan, runs: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> dict[str, Any]:
    shares, features = len(plan.runs) * plan.heads * plan.shares, plan.each // (plan.value_width + 1)
    return dict(
        shares=plan.shares, sums=room_for_sums(values, shares, features, plan.value_width) if plan.shares > 1 else None,
        queries=queries, keys=keys, values=values, live=mask, live_step=plan.length, runs=runs, run_count=len(plan.runs), heads=plan.heads,
        length=plan.length, width=queries.shape[3], value_width=plan.value_width, stride=plan.stride,
    )  # fmt: skip


def _favor_causal_like(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    projection: Tensor,
    mask: Tensor | None,
    total: Tensor,
    weight: Tensor,
    maximum: Tensor,
    bounds: list[int],
    keep: bool,
) -> tuple[Tensor, ...]:
    plan = Plan(bounds, values, len(projection))
    state = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (total, weight, maximum))
    return positions_first(values), *state, *plan.empty(values, keep=keep)


def _work_of_favor_causal(queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor, *_: Any) -> int:
    features, width, values_width = len(projection), queries.shape[3], values.shape[3]
    return positions(values) * (2 * features * (width + values_width) + CHUNK * (features + values_width))


@operator(
    work=_work_of_favor_causal,
    fake=_favor_causal_like,
    check=asks(
        queries="B H N K, rows", keys="B H N K, rows", values="B H N V, rows", projection="M K, copied", mask="B N, bool",
        total="R H M V, copied", weight="R H M, copied", maximum="R H 1, copied", **RUNS,
    ),
)  # fmt: skip
def favor_causal(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    projection: Tensor,
    mask: Tensor | None,
    total: Tensor,
    weight: Tensor,
    maximum: Tensor,
    bounds: list[int],
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Causal FAVOR+ of (B, H, N, K) from the state (R, H, M, V), (R, H, M), (R, H, 1).

    Args:
        projection: (M, K) times K^(-1/4).
        mask: (B, N) bool, real tokens.
        bounds: where packed documents begin and end; empty: R = B.
        keep: whether backward will follow.

    Returns:
        The output, the state after, and for backward the normaliser (B, H, N), the running maximum before each chunk and after the last
        (., H), and the summaries before chunks (., H, M (V + 1)).
    """
    plan = Plan(bounds, values, len(projection))
    runs = torch.tensor(plan.runs, dtype=torch.int64)
    output, kept = positions_first(values), plan.empty(values, keep=keep)
    total, weight, maximum = (x.clone(memory_format=torch.contiguous_format) for x in (total, weight, maximum))
    for_backward = dict(zip(("normaliser", "marks", "kept"), kept, strict=True)) if keep else {}
    given = _common(plan, runs, queries, keys, values, mask)
    call_with("favor_causal_forward", projection, **given, **for_backward, output=output, total=total, weight=weight, maximum=maximum)
    return output, total, weight, maximum, *kept


def _favor_causal_backward_like(
    d_output: Tensor, d_total: Tensor, d_weight: Tensor, queries: Tensor, keys: Tensor, values: Tensor, *_: Any
) -> tuple[Tensor, ...]:
    state = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (d_total, d_weight))
    return positions_first(queries), positions_first(keys), positions_first(values), *state


def _work_of_favor_causal_backward(
    d_output: Tensor, d_total: Tensor, d_weight: Tensor, queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor, *_: Any
) -> int:
    features, width, values_width = len(projection), queries.shape[3], values.shape[3]
    return positions(values) * (4 * features * (width + values_width) + CHUNK * (3 * features + 2 * values_width))


@operator(
    work=_work_of_favor_causal_backward,
    fake=_favor_causal_backward_like,
    check=asks(
        queries="B H N K, rows", keys="B H N K, rows", values="B H N V, rows", projection="M K, copied", mask="B N, bool",
        d_output="B H N V, rows", d_total="R H M V, copied", d_weight="R H M, copied", output="B H N V, rows", maximum="R H 1",
        normaliser="B H N", marks="G H", kept="S H M*(V+1)", **RUNS,
    ),
)  # fmt: skip
def favor_causal_backward(
    d_output: Tensor,
    d_total: Tensor,
    d_weight: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    projection: Tensor,
    mask: Tensor | None,
    output: Tensor,
    maximum: Tensor,
    bounds: list[int],
    normaliser: Tensor,
    marks: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, keys, values and the state before, from those of the output and of the state after."""
    plan = Plan(bounds, values, len(projection))
    check_tensor("favor_causal_backward", "marks", marks, (plan.marks, plan.heads))
    check_tensor("favor_causal_backward", "kept", kept, (plan.kept, plan.heads, plan.each))
    runs = torch.tensor(plan.runs, dtype=torch.int64)
    d_queries, d_keys, d_values = positions_first(queries), positions_first(keys), positions_first(values)
    d_total, d_weight = d_total.clone(memory_format=torch.contiguous_format), d_weight.clone(memory_format=torch.contiguous_format)
    given = _common(plan, runs, queries, keys, values, mask)
    call_with(
        "favor_causal_backward", projection, **given, output=output, maximum=maximum, normaliser=normaliser, marks=marks, kept=kept,
        d_output=d_output, d_total=d_total, d_weight=d_weight, d_queries=d_queries, d_keys=d_keys, d_values=d_values,
    )  # fmt: skip
    return d_queries, d_keys, d_values, d_total, d_weight


def _composition(*arguments: Any) -> tuple[Tensor, ...]:
    queries, keys, values, projection, mask, total, weight, maximum, bounds = arguments
    keys, values = zero_keys(keys, mask), zero_keys(values, mask)
    pieces = document_chunks(bounds, queries.shape[2], queries.shape[2])
    return causal_by_formula(queries, keys, values, projection, mask, total, weight, maximum, pieces, CHUNK)


class NativeCausalFavor(torch.autograd.Function):
    """(queries, keys, values, projection, mask, total, weight, maximum, bounds) -> (output, total, weight, maximum).

    Args of ``apply``:
        queries, keys, values: (B, H, N, K); keys and values may hold anything at padding.
        projection: (M, K) times K^(-1/4).
        mask: (B, N) bool, real tokens; None: all.
        total, weight, maximum: the state before, (R, H, M, K), (R, H, M), (R, H, 1).
        bounds: where packed documents begin and end; None: R = B.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        projection: Tensor,
        mask: Tensor | None,
        total: Tensor,
        weight: Tensor,
        maximum: Tensor,
        bounds: list[int] | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        again, given = any(ctx.needs_input_grad), (queries, keys, values, projection, mask, total, weight, maximum, bounds)
        output, total, weight, maximum, *made = favor_causal(
            *laid_out(queries, keys, values), projection, None if mask is None else mask.contiguous(), total, weight, maximum,
            bounds or [], again,
        )  # fmt: skip
        if again:
            keep(ctx, given, output, maximum, *made)
        ctx.mark_non_differentiable(maximum)
        ctx.set_materialize_grads(False)
        return output, total, weight, maximum

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_output: Tensor | None, d_total: Tensor | None, d_weight: Tensor | None, _: Any) -> tuple[Any, ...]:
        (queries, keys, values, projection, mask, *state, _, bounds), (output, maximum, *made) = kept(ctx)
        mask = None if mask is None else mask.contiguous()
        d_output = torch.zeros_like(output) if d_output is None else dense_channels(d_output)
        d_total, d_weight = (
            torch.zeros_like(before) if given is None else given for before, given in zip(state, (d_total, d_weight), strict=True)
        )
        d_queries, d_keys, d_values, d_total, d_weight = favor_causal_backward(
            d_output, d_total, d_weight, *laid_out(queries, keys, values), projection, mask, output, maximum, bounds or [], *made
        )
        return d_queries, d_keys, d_values, None, None, d_total, d_weight, None, None
