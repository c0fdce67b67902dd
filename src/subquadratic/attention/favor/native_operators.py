"""FAVOR+ by the C kernels, as operators that PyTorch knows: forward and backward, causal and bidirectional, float32 on a CPU.

Autograd is `native.py`'s. A chunk's features exist in a core's cache and nowhere else: backward makes them again.

Axes: B batch, H heads, N length, K head width, V width of values, M features, R runs (documents, or rows of the batch), G chunks.
"""

import ctypes
import itertools
from typing import Any

import torch
from torch import Tensor

from ...core.layout import positions_first
from ...core.numerics import EMPTY, LOG2E, NOTHING
from ...kernels.native.checks import asks, check_tensor
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import CHUNK, INT64, POINTER, ROWS, Rows, fields, operator, positions, shares_of

MOST_KEPT = 1 << 26  # numbers (256 MB) that the summaries before all chunks may be; beyond, those before every few are kept
AGAIN = 0.4  # of a causal call's work, what it does once more where threads share a head
BOUNDS = "B == 1 and bounds[0] == 0 and bounds[-1] == N and all(a <= b for a, b in zip(bounds, bounds[1:]))"
RUNS: dict[str, Any] = dict(  # of packed documents, each of which has a state, or of the batch
    sizes={"R": "len(bounds) - 1 if bounds else B"},
    require={f"not bounds or {BOUNDS}": "bounds must rise from 0 to the length {N} of one row, got {bounds} for {B} rows"},
)


class Favor(Arguments, layout="favor"):
    """``favor`` of favor.h."""

    _fields_ = [
        *((name, Rows) for name in ROWS),
        ("live", POINTER), ("live_step", INT64), ("projection", POINTER), ("table", POINTER), ("runs", POINTER),
        *((name, INT64) for name in ("run_count", "heads", "width", "value_width", "features", "stride", "shares", "threads")),
        *((name, POINTER) for name in ("total", "weight", "maximum", "d_total", "d_weight", "normaliser")),
        ("length", INT64), ("marks", POINTER), ("sums", POINTER), ("kept", POINTER), ("nothing", ctypes.c_float), ("empty", ctypes.c_float),
    ]  # fmt: skip


def _call(name: str, projection: Tensor, **arguments: Any) -> None:
    """Call a kernel with the fields of :class:`Favor` that it reads."""
    projection = projection.contiguous()
    more = dict(projection=projection, table=projection * LOG2E, features=len(projection), nothing=NOTHING, empty=EMPTY)
    call(name, Favor(**fields(**arguments, **more)))


class Plan:
    """The runs of positions that share a state, and what is kept of them."""

    def __init__(self, bounds: list[int], values: Tensor, features: int):
        batch, self.heads, self.length, self.value_width = values.shape
        spans = [(0, a, b) for a, b in itertools.pairwise(bounds)] or [(row, 0, self.length) for row in range(batch)]
        chunks = [-(-(stop - start) // CHUNK) for _, start, stop in spans]
        self.each = features * (self.value_width + 1)
        longest = max((stop - start for _, start, stop in spans), default=0)
        self.shares = shares_of(len(spans) * self.heads, longest, again=AGAIN)
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


def _common(plan: Plan, runs: Tensor, queries: Tensor, keys: Tensor, values: Tensor, live: Tensor | None) -> dict[str, Any]:
    shares, features = len(plan.runs) * plan.heads * plan.shares, plan.each // (plan.value_width + 1)
    return dict(
        shares=plan.shares, sums=_sums(values, shares, features, plan.value_width) if plan.shares > 1 else None,
        queries=queries, keys=keys, values=values, live=live, live_step=plan.length, runs=runs, run_count=len(plan.runs), heads=plan.heads,
        length=plan.length, width=queries.shape[3], value_width=plan.value_width, stride=plan.stride,
    )  # fmt: skip


def _favor_causal_like(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    projection: Tensor,
    live: Tensor | None,
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
        queries="B H N K, rows", keys="B H N K, rows", values="B H N V, rows", projection="M K, copied", live="B N, bool",
        total="R H M V, copied", weight="R H M, copied", maximum="R H 1, copied", **RUNS,
    ),
)  # fmt: skip
def favor_causal(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    projection: Tensor,
    live: Tensor | None,
    total: Tensor,
    weight: Tensor,
    maximum: Tensor,
    bounds: list[int],
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Causal FAVOR+ of (B, H, N, K) from the state (R, H, M, V), (R, H, M), (R, H, 1).

    Args:
        projection: (M, K) times K^(-1/4).
        live: (B, N) bool, real tokens.
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
    given = _common(plan, runs, queries, keys, values, live)
    _call("favor_causal_forward", projection, **given, **for_backward, output=output, total=total, weight=weight, maximum=maximum)
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
        queries="B H N K, rows", keys="B H N K, rows", values="B H N V, rows", projection="M K, copied", live="B N, bool",
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
    live: Tensor | None,
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
    given = _common(plan, runs, queries, keys, values, live)
    _call(
        "favor_causal_backward", projection, **given, output=output, maximum=maximum, normaliser=normaliser, marks=marks, kept=kept,
        d_output=d_output, d_total=d_total, d_weight=d_weight, d_queries=d_queries, d_keys=d_keys, d_values=d_values,
    )  # fmt: skip
    return d_queries, d_keys, d_values, d_total, d_weight


def _of_batch(x: Tensor, value_width: int, features: int) -> dict[str, Any]:
    """What the kernels of the bidirectional form are told of their (B, H, N, K)."""
    batch, heads, length, width = x.shape
    shares = shares_of(batch * heads, length)
    sums = _sums(x, batch * heads * shares, features, value_width) if shares > 1 else None
    sizes = dict(run_count=batch, heads=heads, length=length, width=width, value_width=value_width)
    return sizes | dict(live_step=length, shares=shares, sums=sums)


def _sums(like: Tensor, shares: int, features: int, value_width: int) -> Tensor:
    """Storage for what each share of the positions sums up, rows filled up to whole vectors."""
    return like.new_empty(shares * (features * (value_width + 32) + 64))


def _summary_like(keys: Tensor, values: Tensor, projection: Tensor, live: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*values.shape[:2], projection.shape[0])
    return values.new_empty(*shape, values.shape[3]), values.new_empty(shape), values.new_empty(shape)


def _work_of_favor_summarise(keys: Tensor, values: Tensor, projection: Tensor, *_: Any) -> int:
    return positions(keys) * len(projection) * (keys.shape[3] + values.shape[3])


@operator(
    work=_work_of_favor_summarise,
    fake=_summary_like,
    check=asks(keys="B H N K, rows", values="B H N V, rows", projection="M K, copied", live="B N, bool"),
)
def favor_summarise(keys: Tensor, values: Tensor, projection: Tensor, live: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The summary (B, H, M, V), (B, H, M) of keys and values, and each feature's largest exponent (B, H, M), to base 2."""
    total, weight, maximum = _summary_like(keys, values, projection)
    given = _of_batch(keys, values.shape[3], len(projection)) | dict(keys=keys, values=values, live=live)
    _call("favor_summarise", projection, **given, total=total, weight=weight, maximum=maximum)
    return total, weight, maximum


def _favor_summarise_backward_like(d_total: Tensor, d_weight: Tensor, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return positions_first(keys), positions_first(values)


def _work_of_favor_summarise_backward(d_total: Tensor, d_weight: Tensor, keys: Tensor, values: Tensor, projection: Tensor, *_: Any) -> int:
    return 2 * _work_of_favor_summarise(keys, values, projection)


@operator(
    work=_work_of_favor_summarise_backward,
    fake=_favor_summarise_backward_like,
    check=asks(
        keys="B H N K, rows", values="B H N V, rows", projection="M K, copied", live="B N, bool", maximum="B H M",
        d_total="B H M V, copied", d_weight="B H M, copied",
    ),
)  # fmt: skip
def favor_summarise_backward(
    d_total: Tensor, d_weight: Tensor, keys: Tensor, values: Tensor, projection: Tensor, live: Tensor | None, maximum: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of keys and values from those of their summary."""
    d_keys, d_values = positions_first(keys), positions_first(values)
    given = _of_batch(keys, values.shape[3], len(projection)) | dict(keys=keys, values=values, live=live, maximum=maximum)
    d_total, d_weight = d_total.contiguous(), d_weight.contiguous()
    _call("favor_summarise_backward", projection, **given, d_total=d_total, d_weight=d_weight, d_keys=d_keys, d_values=d_values)
    return d_keys, d_values


def _read_like(queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
    batch, heads, length, _ = queries.shape
    return queries.new_empty(batch, length, heads, total.shape[3]).transpose(1, 2), queries.new_empty(batch, heads, length)


def _work_of_favor_read(queries: Tensor, projection: Tensor, total: Tensor, *_: Any) -> int:
    return positions(queries) * len(projection) * (queries.shape[3] + total.shape[3])


@operator(
    work=_work_of_favor_read,
    fake=_read_like,
    check=asks(queries="B H N K, rows", projection="M K, copied", total="B H M V", weight="B H M", maximum="B H M"),
)
def favor_read(queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
    """What queries read of a summary as :func:`favor_summarise` gives it, (B, H, N, V), and the normaliser (B, H, N)."""
    output, normaliser = _read_like(queries, projection, total, weight, maximum)
    given = _of_batch(queries, total.shape[3], len(projection)) | dict(queries=queries, output=output, normaliser=normaliser)
    _call("favor_read", projection, **given, total=total, weight=weight, maximum=maximum)
    return output, normaliser


def _favor_read_backward_like(
    d_output: Tensor, queries: Tensor, projection: Tensor, total: Tensor, weight: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return positions_first(queries), torch.empty_like(total), torch.empty_like(weight)


def _work_of_favor_read_backward(d_output: Tensor, queries: Tensor, projection: Tensor, total: Tensor, *_: Any) -> int:
    return 2 * _work_of_favor_read(queries, projection, total)


@operator(
    work=_work_of_favor_read_backward,
    fake=_favor_read_backward_like,
    check=asks(
        queries="B H N K, rows", projection="M K, copied", total="B H M V", weight="B H M", maximum="B H M",
        d_output="B H N V, rows", output="B H N V, rows", normaliser="B H N",
    ),
)  # fmt: skip
def favor_read_backward(
    d_output: Tensor,
    queries: Tensor,
    projection: Tensor,
    total: Tensor,
    weight: Tensor,
    maximum: Tensor,
    output: Tensor,
    normaliser: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries and of the summary that they read."""
    d_queries, d_total, d_weight = positions_first(queries), torch.empty_like(total), torch.empty_like(weight)
    given = _of_batch(queries, total.shape[3], len(projection)) | dict(queries=queries, total=total, weight=weight, maximum=maximum)
    _call(
        "favor_read_backward", projection, **given, output=output, normaliser=normaliser,
        d_output=d_output, d_queries=d_queries, d_total=d_total, d_weight=d_weight,
    )  # fmt: skip
    return d_queries, d_total, d_weight
