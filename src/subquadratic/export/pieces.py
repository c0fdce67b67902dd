"""The ONNX graph of a sequence of any length, from the graph of one piece of fixed length: a Scan over the pieces.

What goes from piece to piece is the state, so that memory does not grow with the sequence, and no sum is longer than a piece: the graph is
as exact as the model's own stream, however long that gets. The last piece is filled up with padding, which has no effect.

Axes: B batch, N length, G pieces, C length of a piece, V vocabulary.
"""

from typing import Any

import numpy as np
import onnx_ir as ir


class _Nodes:
    """Nodes written one after another, each giving one value."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def constant(self, values: list[int] | int | np.ndarray) -> ir.Value:
        array = np.asarray(values, dtype=None if isinstance(values, np.ndarray) else np.int64)
        name = f"pieces.constant.{len(self.constants)}"
        self.constants.append(ir.Value(name=name, const_value=ir.tensor(array, name=name)))
        return self.constants[-1]

    def __call__(self, operator: str, *inputs: ir.Value, outputs: int = 1, **attributes: Any) -> ir.Value:
        node = ir.node(operator, list(inputs), attributes=attributes or None, num_outputs=outputs)
        for place, value in enumerate(node.outputs):
            value.name = f"pieces.{len(self.nodes)}.{place}"
        self.nodes.append(node)
        return node.outputs[0]


def in_pieces(piece: ir.Model, length: int, *, initial: list[np.ndarray] | None, each_position: bool) -> ir.Model:
    """The graph of a sequence of any length.

    Args:
        piece: tokens (B, C), mask (B, C) and the state -> logits and the state after. It is used up.
        length: C.
        initial: the state before the first token, one row of each tensor; then the state is no input and no output. None: it is both.
        each_position: logits are (B, C, V), and joined; else of everything so far, and the last ones are taken.

    Returns:
        tokens (B, N), mask (B, N) and the state -> logits and the state after.
    """
    body, write = piece.graph, _Nodes()
    tokens, mask, *before = body.inputs
    logits, *after = body.outputs
    outer = [_input(value, {1: "length"} if place < 2 else {}) for place, value in enumerate((tokens, mask, *before))]
    names, after_names = [value.name for value in body.inputs], [value.name for value in body.outputs]
    for value in (*body.inputs, *body.outputs):
        value.name = f"piece.{value.name}"
    states = outer[2:] if initial is None else _first_states(write, outer[0], initial)
    weights = list(body.initializers.values())
    body.initializers.clear()
    _rearrange(body, [*before, tokens, mask], [*after, logits])

    size = write("Shape", outer[0], start=1, end=2)
    missing = write("Mod", write("Neg", size), write.constant([length]))
    scanned = [_cut(write, value, missing, length, filler) for value, filler in zip(outer[:2], (np.int64(0), np.bool_(False)), strict=True)]
    write("Scan", *states, *scanned, outputs=len(states) + 1, body=body, num_scan_inputs=2)
    *final, stacked = write.nodes[-1].outputs
    if each_position:
        width = write("Shape", stacked, start=3)
        joined = write("Reshape", write("Transpose", stacked, perm=[1, 0, 2, 3]), write("Concat", write.constant([0, -1]), width, axis=0))
        found = write("Slice", joined, write.constant([0]), size, write.constant([1]))
    else:
        found = write("Gather", stacked, write.constant(-1), axis=0)
    assert logits.shape is not None
    found.shape = ir.Shape(["batch", *(["length"] if each_position else []), logits.shape[-1]])
    results = [found] if initial is not None else [found, *final]
    for value, like, name in zip(results, (logits, *after), after_names, strict=False):
        assert like.dtype is not None
        value.name, value.dtype = name, like.dtype
        value.shape = found.shape if value is found else like.shape
    inputs = outer if initial is None else outer[:2]
    for value, name in zip(inputs, names, strict=False):
        value.name = name
    constants, opsets = [*weights, *write.constants], dict(body.opset_imports)
    graph = ir.Graph(inputs, results, nodes=write.nodes, initializers=constants, opset_imports=opsets, name="sequence")
    return ir.Model(graph, ir_version=piece.ir_version, producer_name=piece.producer_name, functions=list(piece.functions.values()))


def _input(value: ir.Value, open_axes: dict[int, str]) -> ir.Value:
    assert value.shape is not None
    shape = ir.Shape([open_axes.get(axis, size) for axis, size in enumerate(value.shape)])
    return ir.Value(name=value.name, shape=shape, type=value.type)


def _first_states(write: _Nodes, tokens: ir.Value, rows: list[np.ndarray]) -> list[ir.Value]:
    """One row of each tensor as many times as there are rows of tokens."""
    batch = write("Shape", tokens, start=0, end=1)
    shapes = [write("Concat", batch, write.constant(list(row.shape[1:])), axis=0) if row.ndim > 1 else batch for row in rows]
    return [write("Expand", write.constant(row), shape) for row, shape in zip(rows, shapes, strict=True)]


def _cut(write: _Nodes, value: ir.Value, missing: ir.Value, length: int, filler: np.generic) -> ir.Value:
    """(B, N) filled up and cut into pieces: (G, B, C)."""
    full = write("Pad", value, write("Concat", write.constant([0, 0, 0]), missing, axis=0), write.constant(np.asarray(filler)))
    return write("Transpose", write("Reshape", full, write.constant([0, -1, length])), perm=[1, 0, 2])


def _rearrange(graph: ir.Graph, inputs: list[ir.Value], outputs: list[ir.Value]) -> None:
    """Put the inputs and outputs into another order; an output that is an input, or comes twice, gets a node of its own."""
    graph.inputs.clear()
    graph.inputs.extend(inputs)
    graph.outputs.clear()
    given = set(inputs)
    for value in outputs:
        if value in given:
            copy = ir.node("Identity", [value])
            copy.outputs[0].name, copy.outputs[0].shape, copy.outputs[0].type = f"{value.name}.after", value.shape, value.type
            graph.append(copy)
            value = copy.outputs[0]
        given.add(value)
        graph.outputs.append(value)
