"""A feedback recurrence as one differentiable operation: token after token through all layers, each reading the memories before it.

Autograd would build a graph of some hundred nodes per token and add up each weight's gradient token by token. Here the loop forward writes
what backward needs into storage made before it, the loop backward (`gradient.py`) follows input gradients alone, and a weight's
gradient is one product over all tokens at the end. Weights are read as they are, memories where they lie: the time of a step is that of
reading the weights. On a CUDA device, where starting the kernels takes longer than they do, both loops are replayed as graphs.

Axes: B batch, N tokens, D width, L layers, G key-value maps, H heads, K head width, F inner width, M memories, S keys of a window, T places
of the line: those before (M, or none) and the tokens'.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.backend import computed_by
from ...core.numerics import no_autocast
from ...kernels.derivatives import differentiable, keep, kept
from ...replay.cuda_graph import Replayed
from . import native
from .formula import feedback_recurrence_reference
from .forward import forward
from .gradient import backward
from .weights import LayerWeights, MemoryWeights, Shape, Trace, flatten, unflatten


def feedback_recurrence(
    x: Tensor,
    before: Tensor | None,
    empty: Tensor | None,
    memory: MemoryWeights,
    layers: list[LayerWeights],
    *,
    heads: int,
    window: int,
    detach_every: int | None = None,
) -> tuple[Tensor, Tensor]:
    """All tokens of a sequence, one after another.

    Args:
        x: (B, N, D), N at least 1; float32 or float64, as all parameters.
        before: (B, M, G, 2, H, K), keys and values of the memories before, the newest last; None: no memory before, and none made of the
            last token.
        empty: (B,) int64, how many of the oldest of these each row does not have; with ``before`` only.
        memory, layers: the parameters.
        heads, window: H, M.
        detach_every: gradients do not reach memories from before the last multiple of this many tokens.

    Returns:
        The last layer's output (B, N, D), and the line of memories (2, G, B, H, T, K), where T is N, or M + N with ``before``.

    Derivatives beyond a first one in reverse mode are those of :func:`feedback_recurrence_reference`: slow, and with all that it makes.
    """
    way = computed_by(None, x, native=native.fits(x, layers, heads, x.shape[1]))
    if way == "formula":
        options = dict(heads=heads, window=window, detach_every=detach_every)
        return feedback_recurrence_reference(x, before, empty, memory, layers, **options)  # type: ignore[arg-type]
    groups = memory.key_value.shape[0] // (2 * layers[0].query.shape[0])
    first = hidden = lead = 0
    if before is not None and empty is not None:
        lead = before.shape[1]
        # Elsewhere than on a CPU, asking for numbers would wait for the device.
        first, hidden = (int(empty.min()), int(empty.max())) if empty.device.type == "cpu" else (0, lead)
        hidden = hidden if hidden > first else 0
    shape = Shape(heads, groups, window, lead, first, min(hidden, x.shape[1]), detach_every, before is not None)
    flat, by_kernel = flatten(memory, layers), way == "native"
    with no_autocast(x):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, before, *flat)):
            return _Recurrence.apply(shape, by_kernel, x, before, empty, *flat)
        made, fixed = _parted(flat)
        with torch.no_grad():  # nothing here needs a gradient, and where one is recorded nothing is replayed
            return _loop(_forward_loop, x.shape[1] * len(layers), x, before, empty, made, shape, by_kernel, False, fixed=fixed)[:2]


GRAPH_STEPS = 1 << 13  # tokens times layers of a graph: a dozen kernels each, some microseconds of preparation a kernel
GRAPH_BYTES = 1 << 30  # of a graph's trace: copying it takes a device less than a millisecond, the loop several


def _parted(flat: Sequence[Tensor | None]) -> tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...]]:
    """The mixture and the bias, which are made anew for each call, and all other parameters, which a graph reads where they lie."""
    return (flat[0], flat[4]), (*flat[1:4], *flat[5:])


def _whole(made: Sequence[Tensor | None], fixed: Sequence[Tensor | None]) -> tuple[MemoryWeights, list[LayerWeights]]:
    """Undo :func:`_parted`."""
    return unflatten((made[0], *fixed[:3], made[1], *fixed[3:]))


def _run_all(
    x: Tensor,
    before: Tensor | None,
    empty: Tensor | None,
    made: tuple[Tensor | None, ...],
    shape: Shape,
    by_kernel: bool,
    keep: bool,
    *fixed: Tensor | None,
) -> tuple[Tensor, Tensor, Trace | None]:
    y, line, trace = forward(shape, x, before, empty, *_whole(made, fixed), keep=keep, native=by_kernel)
    return y, line, trace if keep else None


def _run_back(
    line: Tensor,
    empty: Tensor | None,
    made: tuple[Tensor | None, ...],
    shape: Shape,
    by_kernel: bool,
    trace: Trace,
    d_y: Tensor | None,
    d_line: Tensor | None,
    wants: tuple[bool, ...],
    wants_before: bool,
    *fixed: Tensor | None,
) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
    options = dict(wants=wants, wants_before=wants_before, native=by_kernel)
    return backward(shape, line, empty, *_whole(made, fixed), trace, d_y, d_line, **options)  # type: ignore[arg-type]


_forward_loop, _backward_loop = Replayed(_run_all, graphs=2, limit=GRAPH_BYTES), Replayed(_run_back, graphs=2, limit=GRAPH_BYTES)


def _loop(replayed: Replayed, steps: int, *given: Any, fixed: tuple[Tensor | None, ...]) -> Any:
    return replayed(*given, fixed=fixed) if steps <= GRAPH_STEPS else replayed.function(*given, *fixed)


def _composition(
    shape: Shape, by_kernel: bool, x: Tensor, before: Tensor | None, empty: Tensor | None, *flat: Tensor | None
) -> tuple[Tensor, Tensor]:
    memory, layers = unflatten(flat)
    options = dict(heads=shape.heads, window=shape.window, detach_every=shape.detach_every)
    return feedback_recurrence_reference(x, before, empty, memory, layers, **options)  # type: ignore[arg-type]


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, shape: Shape, by_kernel: bool, x: Tensor, before: Tensor | None, empty: Tensor | None, *flat: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        made, fixed = _parted(flat)
        given = (x, before, empty, made, shape, by_kernel, True)
        y, line, trace = _loop(_forward_loop, x.shape[1] * len(unflatten(flat)[1]), *given, fixed=fixed)
        keep(ctx, (shape, by_kernel, x, before, empty, *flat), line, *trace.weights, *(part for part in trace if isinstance(part, Tensor)))
        return y, line

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_y: Tensor | None, d_line: Tensor | None) -> tuple[Tensor | None, ...]:
        (shape, by_kernel, _, _, empty, *flat), (line, *saved) = kept(ctx)
        *weights, hidden, middle, queries, attended, expanded, active, merged = saved
        trace = Trace(hidden, middle, queries, attended, weights, expanded, active, merged)
        wants, wants_before = ctx.needs_input_grad[5:], ctx.needs_input_grad[3]
        made, fixed = _parted(flat)
        given = (line, empty, made, shape, by_kernel, trace, d_y, d_line, wants, wants_before)
        d_x, d_before, d_flat = _loop(_backward_loop, middle.shape[0] * middle.shape[1], *given, fixed=fixed)
        return None, None, d_x, d_before, None, *d_flat
