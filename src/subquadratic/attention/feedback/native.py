"""A feedback recurrence's loops by C kernels: what they are given, from what the loops of `feedback_recurrence.py` and
`feedback_gradient.py` have.

Axes as there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.backend import PLAIN, takes_native
from ...core.numerics import HIDDEN
from .products import LONG
from .weights import LAYER_EPSILON, SCALE_EPSILON, LayerWeights, MemoryWeights, Shape, Trace, with_gain


def suits(x: Tensor, layers: Sequence[LayerWeights], heads: int, length: int) -> bool:
    """Whether the C kernels can run the loops, and are worth calling."""
    from .native_operators import MULTIPLE

    wide, inner = layers[0].query.shape[0], layers[0].contract.shape[1]
    fits = not any(size % MULTIPLE for size in (x.shape[-1], wide // heads, inner))
    return length >= LONG and fits and x.shape[0] > 0 and type(x) in PLAIN and takes_native(None, x)


def weight_places(shape: Shape, length: int, each: int) -> tuple[list[int], list[int], int]:
    """Of each token, how many memories it sees and where its softmax weights begin, ``each`` for a memory; and their number in all."""
    seen = [shape.lead + token - shape.begin(token) for token in range(length)]
    starts = [0]
    for count in seen:
        starts.append(starts[-1] + count * each)
    return seen, starts[:-1], starts[-1]


def run_forward(
    shape: Shape,
    steps: Tensor,
    empty: Tensor | None,
    memory: MemoryWeights,
    layers: Sequence[LayerWeights],
    trace: Trace,
    line: Tensor,
    outputs: Tensor | None,
) -> Trace:
    """The loop forward: fills in the line, and the trace, or with ``outputs`` (N, B, D) these alone."""
    from .native_operators import Call

    length, batch, _ = steps.shape
    keep, rows = outputs is None, batch * shape.heads
    seen, at, total = weight_places(shape, length, len(layers) * rows)
    if not keep:
        at, total = [0] * length, len(layers) * rows * max(seen)
    weights, call = line.new_empty(total), Call()
    made = []
    for layer in layers:
        output, output_bias = with_gain(layer.output_gain, layer.output, layer.output_bias)
        contract, contract_bias = with_gain(layer.contract_gain, layer.contract, layer.contract_bias)
        biases = dict(output_bias=output_bias, expand_bias=layer.expand_bias, contract_bias=contract_bias)
        made.append(call.layer((layer.query, output, layer.expand, contract), **biases, **_norms(layer)))
    arguments = _common(shape, length, memory, layers, trace, line, empty) | dict(weights=weights, at=at, steps=steps, outputs=outputs)
    call.run("feedback_forward", made, memory.key_value, keep=keep, **arguments)
    if not keep:
        return trace
    parts = weights.split([count * len(layers) * rows for count in seen])
    return trace._replace(weights=[part.view(len(layers), rows, 1, -1) for part in parts])


def run_backward(
    shape: Shape,
    empty: Tensor | None,
    memory: MemoryWeights,
    layers: Sequence[LayerWeights],
    trace: Trace,
    line: Tensor,
    d_y: Tensor | None,
    **gradients: Tensor | None,
) -> None:
    """The loop backward: fills in ``gradients``, those of feedback.h; ``d_expanded`` holds the activation's slopes."""
    from .native_operators import Call

    length, scale, call = len(trace.weights), (layers[0].query.shape[0] // shape.heads) ** -0.5, Call()
    made = []
    for layer in layers:
        output, _ = with_gain(layer.output_gain, layer.output, layer.output_bias)
        contract, _ = with_gain(layer.contract_gain, layer.contract, layer.contract_bias)
        made.append(call.layer(((layer.query * scale).mT, output.mT, layer.expand.mT, contract.mT), **_norms(layer)))
    _, at, _ = weight_places(shape, length, len(layers) * trace.weights[0].shape[1])
    weights = torch.cat([part.flatten() for part in trace.weights])
    arguments = _common(shape, length, memory, layers, trace, line, empty)
    more = dict(weights=weights, at=at, cut=[shape.cut(token) for token in range(length)], d_y=d_y)
    call.run("feedback_backward", made, memory.key_value.mT, keep=True, **arguments, **more, **gradients)


def _norms(layer: LayerWeights) -> dict[str, Tensor | None]:
    return dict(
        norm_weight=layer.norm_weight, norm_bias=layer.norm_bias, inner_weight=layer.inner_norm_weight, inner_bias=layer.inner_norm_bias
    )


def _common(
    shape: Shape, length: int, memory: MemoryWeights, layers: Sequence[LayerWeights], trace: Trace, line: Tensor, empty: Tensor | None
) -> dict[str, Any]:
    batch, dim = trace.merged.shape[1:]
    begin = [shape.begin(token) for token in range(length)]
    seen = [shape.lead + token - first for token, first in enumerate(begin)]
    return dict(
        batch=batch, length=length, dim=dim, depth=len(layers), heads=shape.heads, width=line.shape[-1], groups=shape.groups,
        inner=trace.active.shape[-1], expanded=trace.expanded.shape[-1], places=line.shape[-2], lead=shape.lead,
        window=max(seen) if memory.bias is None else memory.bias.shape[1],
        hiding=shape.hidden, made=length if shape.stateful else length - 1,
        layer_epsilon=LAYER_EPSILON, scale_epsilon=SCALE_EPSILON, minus=HIDDEN,
        begin=begin, empty=empty,
        mixture=memory.mixture, norm_weight=memory.norm_weight, norm_bias=memory.norm_bias,
        bias=None if memory.bias is None else memory.bias.contiguous(),
        line=line, hidden=trace.hidden, middle=trace.middle, queries=trace.queries, attended=trace.attended, before=trace.expanded,
        active=trace.active, merged=trace.merged,
    )  # fmt: skip
