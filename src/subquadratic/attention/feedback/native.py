"""The loops of a feedback recurrence by C kernels (forward.c, backward.c): float32 on a CPU, widths that are multiples of 16.

What the kernels are given, from what the loops of `op.py` and `gradient.py` have.

Axes: B batch, N tokens, D width, L layers, G key-value maps, H heads, K head width, F inner width, F' width of the expanding map, S keys of
a window, T places of the line.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.backend import PLAIN
from ...core.numerics import HIDDEN
from ...kernels.native.checks import asks, check_tensor
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER, operator
from .products import MANY_STEPS
from .weights import LAYER_EPSILON, SCALE_EPSILON, LayerWeights, MemoryWeights, Shape, Trace, with_gain

WIDTH_MULTIPLE = 16  # of which widths must be multiples: the most lanes that a vector has
PANEL_ROWS = 48  # at most, as in feedback.h
MAPS = ("query", "output", "expand", "contract")
LAYER_POINTERS = ("norm_weight", "norm_bias", "inner_weight", "inner_bias", "output_bias", "expand_bias", "contract_bias")
SIZES: tuple[str, ...] = ("batch", "length", "dim", "depth", "heads", "width", "groups", "inner", "expanded", "places", "lead", "window")
SIZES += ("hiding", "made", "keep", "threads")


# What each tensor must be, by the sizes above. kept: of how many tokens the trace has room; numbers: of all softmax weights.
SHAPES = {
    "steps": "length batch dim", "outputs": "length batch dim", "d_y": "length batch dim", "mixture": "depth+1", "bias": "heads window",
    "line": "2 groups batch heads places width", "d_line": "2 groups batch heads places width", "weights": "numbers",
    "hidden": "kept depth+1 batch dim", "middle": "depth kept batch dim", "queries": "kept depth batch heads*width",
    "attended": "kept depth batch heads*width", "before": "depth kept batch expanded", "active": "depth kept batch inner",
    "merged": "kept batch dim", "d_hidden": "length depth+1 batch dim", "d_middle": "depth length batch dim",
    "d_queries": "length depth batch heads*width", "d_attended": "length depth batch heads*width", "d_inner": "depth length batch dim",
    "d_normed": "depth length batch dim", "d_expanded": "depth length batch expanded", "d_merged": "made batch dim",
    "d_memory": "made batch dim", "d_made": "made batch 2*groups*heads*width", "d_bias": "batch*heads 1 window",
    "query": "heads*width dim", "output": "dim heads*width", "expand": "expanded dim", "contract": "dim inner",
    "key_value": "2*groups*heads*width dim", "output_bias": "dim", "expand_bias": "expanded", "contract_bias": "dim",
    "norm_bias": "dim", "inner_bias": "dim", "begin": "length", "at": "length", "cut": "length", "empty": "batch",
}  # fmt: skip
INTEGERS = ("begin", "at", "cut", "empty")
OF_MAPS = (*MAPS, "key_value")  # backward reads them transposed


class Weight(Arguments, layout="feedback_weight"):
    """``weight`` of feedback.h."""

    _fields_ = [("at", POINTER), *((name, INT64) for name in ("out", "in", "outs", "ins")), ("panels", POINTER)]


class Layer(Arguments, layout="feedback_layer"):
    """``layer`` of feedback.h."""

    _fields_ = [*((name, POINTER) for name in LAYER_POINTERS), *((name, Weight) for name in MAPS)]


class Feedback(Arguments, layout="feedback"):
    """``feedback`` of feedback.h."""

    _fields_ = [
        *((name, INT64) for name in SIZES),
        *((name, ctypes.c_float) for name in ("layer_epsilon", "scale_epsilon", "minus")),
        *((name, POINTER) for name in ("begin", "at", "cut", "empty", "mixture", "norm_weight", "norm_bias", "bias")),
        ("key_value", Weight),
        ("layers", ctypes.POINTER(Layer)),
        *((name, POINTER) for name in ("line", "hidden", "middle", "queries", "attended", "weights", "before", "active", "merged")),
        *((name, POINTER) for name in ("steps", "outputs", "d_y", "d_hidden", "d_middle", "d_queries", "d_attended", "d_inner")),
        *((name, POINTER) for name in ("d_normed", "d_expanded", "d_merged", "d_memory", "d_made", "d_line", "d_bias")),
    ]  # fmt: skip


def _nothing_like(x: Tensor, multiply_adds: int) -> Tensor:
    return x.new_empty(0)


def _given_work(x: Tensor, multiply_adds: int) -> int:
    return multiply_adds


@operator(work=_given_work, fake=_nothing_like, check=asks(x="N B D, copied"))
def feedback_work(x: Tensor, multiply_adds: int) -> Tensor:
    """Nothing: it tells whoever watches PyTorch's operators, as a counter of operations does, what a loop beside them takes."""
    return _nothing_like(x, multiply_adds)


class Call:
    """Arguments of one call, and all that they point to."""

    def __init__(self) -> None:
        self._held: list[tuple[str, Tensor]] = []

    def pointer(self, name: str, tensor: Tensor | None) -> int | None:
        """Where a tensor's numbers lie, from now on for the length of the call."""
        if tensor is None:
            return None
        self._held.append((name, tensor))
        return tensor.data_ptr()

    def weight(self, name: str, tensor: Tensor) -> Weight:
        """A map (O, I), which may be a transposed view."""
        if tensor.dim() != 2:
            raise ValueError(f"feedback: {name} must be (out, in), got {tuple(tensor.shape)}")
        outs, ins = tensor.shape
        panels = tensor.new_empty((outs + 2 * PANEL_ROWS) * ins)
        self._held += [(name, tensor), ("", panels)]
        return Weight(tensor.data_ptr(), *tensor.stride(), outs, ins, panels.data_ptr())

    def layer(self, maps: Sequence[Tensor], **pointers: Tensor | None) -> Layer:
        """Of its maps in the order of ``MAPS``, and norms and biases."""
        found = {name: self.pointer(name, None if tensor is None else tensor.contiguous()) for name, tensor in pointers.items()}
        return Layer(**found, **{name: self.weight(name, tensor) for name, tensor in zip(MAPS, maps, strict=True)})

    def run(self, name: str, layers: list[Layer], key_value: Tensor, **arguments: Any) -> None:
        """Call ``name`` with the fields of :class:`Feedback` that are given: tensors, lists of integers, and numbers.

        Raises:
            ValueError: for a tensor that is not what the kernel reads: no pointer is used before all have been looked at.
        """
        found: dict[str, Any] = {"layers": (Layer * len(layers))(*layers), "key_value": self.weight("key_value", key_value)}
        for field, value in arguments.items():
            if isinstance(value, list):
                value = torch.tensor(value, dtype=torch.int64)
            found[field] = self.pointer(field, value) if isinstance(value, Tensor) else value
        sizes = {size: found[size] for size in SIZES if size in found}
        self._check(name, sizes, arguments["at"])
        if torch._C._len_torch_dispatch_stack():
            feedback_work(arguments["hidden"][:, 0], _multiply_adds(name, sizes, arguments["begin"]))
        call(name, Feedback(threads=torch.get_num_threads(), **found))

    def _check(self, name: str, sizes: dict[str, Any], at: list[int]) -> None:
        held = dict(self._held)
        sizes |= {"kept": sizes["length"] if sizes["keep"] else 1, "numbers": held["weights"].numel()}
        begin = held["begin"].tolist()
        seen = [sizes["lead"] + token - first for token, first in enumerate(begin)]
        each = sizes["depth"] * sizes["batch"] * sizes["heads"]
        fits = (
            not any(sizes[width] % WIDTH_MULTIPLE for width in ("dim", "width", "inner"))
            and sizes["expanded"] in (sizes["inner"], 2 * sizes["inner"])
            and sizes["made"] <= sizes["length"]
            and sizes["lead"] + sizes["length"] <= sizes["places"]
            and all(0 <= count <= sizes["window"] and first >= 0 for count, first in zip(seen, begin, strict=True))
            and all(place >= 0 and place + count * each <= sizes["numbers"] for place, count in zip(at, seen, strict=True))
        )
        if not fits:
            text = f"widths must be multiples of {WIDTH_MULTIPLE}, and windows lie within the line of memories"
            raise ValueError(f"{name}: {text}, got {sizes}")
        for field, x in self._held:
            if not x.is_cpu:
                raise ValueError(f"{name}: {field} must lie on the CPU, got {x.device}")
            if field in ("norm_weight", "inner_weight"):  # one number: of a scale norm
                check_tensor(name, field, x, (1,) if x.numel() == 1 else (sizes["dim"],))
            elif field in SHAPES:
                shape = tuple(eval(size, {}, sizes) for size in SHAPES[field].split())
                is_map, dtype = field in OF_MAPS, torch.int64 if field in INTEGERS else torch.float32
                shape = shape[::-1] if is_map and name == "feedback_backward" else shape
                check_tensor(name, field, x, shape, dtype=dtype, layout="copied" if is_map else "contiguous")


def _multiply_adds(name: str, sizes: dict[str, Any], begin: list[int]) -> int:
    """Of a loop, as the products of PyTorch's operators in its place would be counted."""
    batch, length, dim, depth, back = sizes["batch"], sizes["length"], sizes["dim"], sizes["depth"], name == "feedback_backward"
    wide, seen = sizes["heads"] * sizes["width"], [sizes["lead"] + token - first for token, first in enumerate(begin)]
    asking = sum(count > 0 for count in seen)  # tokens that have memories to attend to
    queries = asking * (depth - 1) if back else length + asking * (depth - 1)  # backward, the first layer's are not in the loop
    maps = (queries + asking * depth) * dim * wide + length * depth * dim * (sizes["expanded"] + sizes["inner"])
    memories = sizes["made"] * dim * (2 * sizes["groups"] * wide + (0 if back else depth + 1))
    return batch * (maps + memories + depth * sum(seen) * wide * (4 if back else 2))


def fits(x: Tensor, layers: Sequence[LayerWeights], heads: int, length: int) -> bool:
    """Whether the C kernels take these sizes, and are worth calling."""
    wide, inner = layers[0].query.shape[0], layers[0].contract.shape[1]
    whole = not any(size % WIDTH_MULTIPLE for size in (x.shape[-1], wide // heads, inner))
    return length >= MANY_STEPS and whole and x.shape[0] > 0 and type(x) in PLAIN


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
    length, batch, _ = steps.shape
    keep, rows = outputs is None, batch * shape.heads
    seen, at, total = weight_places(shape, length, len(layers) * rows)
    if not keep:
        at, total = [0] * length, len(layers) * rows * max(seen)
    weights, kernel = line.new_empty(total), Call()
    made = []
    for layer in layers:
        output, output_bias = with_gain(layer.output_gain, layer.output, layer.output_bias)
        contract, contract_bias = with_gain(layer.contract_gain, layer.contract, layer.contract_bias)
        biases = dict(output_bias=output_bias, expand_bias=layer.expand_bias, contract_bias=contract_bias)
        made.append(kernel.layer((layer.query, output, layer.expand, contract), **biases, **_norms(layer)))
    arguments = _common(shape, length, memory, layers, trace, line, empty) | dict(weights=weights, at=at, steps=steps, outputs=outputs)
    kernel.run("feedback_forward", made, memory.key_value, keep=keep, **arguments)
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
    length, scale, kernel = len(trace.weights), (layers[0].query.shape[0] // shape.heads) ** -0.5, Call()
    made = []
    for layer in layers:
        output, _ = with_gain(layer.output_gain, layer.output, layer.output_bias)
        contract, _ = with_gain(layer.contract_gain, layer.contract, layer.contract_bias)
        made.append(kernel.layer(((layer.query * scale).mT, output.mT, layer.expand.mT, contract.mT), **_norms(layer)))
    _, at, _ = weight_places(shape, length, len(layers) * trace.weights[0].shape[1])
    weights = torch.cat([part.flatten() for part in trace.weights])
    arguments = _common(shape, length, memory, layers, trace, line, empty)
    more = dict(weights=weights, at=at, cut=[shape.cut(token) for token in range(length)], d_y=d_y)
    kernel.run("feedback_backward", made, memory.key_value.mT, keep=True, **arguments, **more, **gradients)


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
