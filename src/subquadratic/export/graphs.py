"""The ONNX graphs of a model, and what is to be said of them."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..heads import EncoderDecoder, SequenceClassifier
from .programs import Program, first_state, open_axes_of, piece, source, state_names, whole

PIECE = 64  # tokens of a pass through the graph of a causal model


def graphs_of(model: Any, piece_length: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The graphs by name, and what is to be said of them."""
    pair = isinstance(model, EncoderDecoder)
    config = model.decoder_config if pair else model.config
    if not config.causal:
        return {"forward": _translated(whole(model))}, {"causal": False, "state": []}
    axes = open_axes_of(model)
    state, rows = _first_state(model, axes)
    described = {"causal": True, "state": state}
    given = {"encoder": _translated(source(model))} if pair else {}
    if any("past" in open_axes.values() for open_axes in axes):
        graphs = given if pair else {"forward": _translated(whole(model))}
        return {**graphs, "extend": _translated(piece(model, None, axes))}, described
    length = int(getattr(config, "segment_length", PIECE)) if piece_length is None else piece_length
    import onnx_ir as ir

    from .pieces import in_pieces

    translated = _translated(piece(model, length, axes))
    copies = [ir.from_proto(ir.to_proto(translated)) for _ in range(2)]
    step = copies[1] if length == 1 else _translated(piece(model, 1, axes))
    each = not isinstance(model, SequenceClassifier)
    if not pair:
        given = {"forward": in_pieces(translated, length, initial=rows, each_position=each)}
    return {**given, "extend": in_pieces(copies[0], length, initial=None, each_position=each), "step": step}, described


def _first_state(model: Any, axes: list[dict[int, str]]) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Of each tensor of the state its name, type and growing axes, and one row of it before the first token, which of an encoder-decoder
    follows from the source."""
    first = first_state(model, 1)
    rows = [tensor.numpy(force=True) for tensor in first.tensors()]
    described = []
    for name, row, open_axes in zip(state_names(first), rows, axes, strict=True):
        grows = [axis for axis, what in open_axes.items() if what == "past"]
        one = {"name": name, "dtype": str(row.dtype), "shape": [None, *row.shape[1:]], "grows": grows}
        if isinstance(model, EncoderDecoder):
            one["shape"] = [None if axis in (0, *open_axes) else size for axis, size in enumerate(row.shape)]
        described.append(one if isinstance(model, EncoderDecoder) else {**one, "row": _plain(row)})
    return described, rows


def _translated(program: Program) -> Any:
    """The program as an ONNX graph, as it is: the exporter's optimizer leaves out sums with numbers below 1e-8, such as the one that keeps
    a quotient of nothing finite. ONNX Runtime optimizes it anyway."""
    with _quiet():
        exported = program.exported()
        translated = torch.onnx.export(
            exported, input_names=program.inputs, output_names=program.outputs, dynamo=True, optimize=False, verbose=False
        )
    assert translated is not None
    _forget_origins(translated.model)
    return translated.model


def _forget_origins(model: Any) -> None:
    """Without what the exporter notes of each node: stack traces and paths of this machine, larger than the graph."""
    import onnx_ir as ir

    graphs = [model.graph, *model.functions.values()]
    nodes = [node for graph in graphs for node in ir.traversal.RecursiveGraphIterator(graph)]
    values = [value for node in nodes for value in node.outputs]
    given = [value for graph in graphs for value in graph.inputs] + list(model.graph.initializers.values())
    for noted in (model, *graphs, *nodes, *values, *given):
        noted.metadata_props.clear()
        noted.doc_string = None


def _plain(row: np.ndarray) -> Any:
    """One number where all are the same, else all of them."""
    if not row.size:
        return 0
    first = row.reshape(-1)[0]
    return first.item() if (row == first).all() else row[0].tolist()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of operators that no model here has, and warns of its own parts."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
