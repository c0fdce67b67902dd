"""A model as a folder of ONNX graphs that share their weights."""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core.errors import require, require_positive
from ..heads import LanguageModel, SequenceClassifier
from ..heads.files import replace_files
from ..layers.modes import evaluating
from .layout import DESCRIPTION, FORMAT, WEIGHTS, graph_file
from .programs import Program, growing_axes, piece, state_names, whole

PIECE = 64  # tokens of a pass through the graph of a causal model
SMALL = 256  # bytes from which a weight stands in the file that the graphs share


def onnx(model: nn.Module, path: str | os.PathLike[str], *, piece_length: int | None = None, overwrite: bool = False) -> None:
    """Write a model as ONNX graphs, for any batch and any length.

    The folder ``path`` gets

    - ``forward.onnx``: tokens (B, N) int64 and mask (B, N) bool, True = real token, to logits, as the model's ``forward``;
    - of a causal model, ``extend.onnx``: also the tensors of the state before, each named by its place (``state.backbone.stack...``), to
      logits and the state after (``state.backbone.stack... .after``), as ``extend``; and ``step.onnx``: the same for one token (B, 1);
    - ``weights.bin``, which all of them read, and ``onnx.json``: what the graphs take, the state before the first token, and the model's
      options.

    :class:`subquadratic.export.OnnxModel` runs them without PyTorch.

    Args:
        model: a ``LanguageModel`` or ``SequenceClassifier``; it is exported as in eval mode.
        path: a folder, made if missing.
        piece_length: tokens that the graphs of a causal model with a state of constant size take at a time, in a loop over the sequence.
            None: 64; of a Feedback Transformer, whose tokens come one after another anyway, its segment length.
        overwrite: replace an exported model that is there.

    Raises:
        ValueError: for other models, a Perceiver AR, cross-attention, or ``piece_length`` below 1.
        FileExistsError: if the folder holds an exported model, or other files of these names.
        ModuleNotFoundError: without the packages ``onnx`` and ``onnxscript``.

    Bidirectional models, and the exact Transformer without a window, whose state grows, are one graph without a loop.
    """
    _check(model)
    require_positive(piece_length=piece_length)
    folder = Path(path)
    _check_free(folder, overwrite)
    with evaluating(model), torch.no_grad():
        graphs, described = _graphs(model, piece_length)
    store = _Weights()
    for graph in graphs.values():
        store.take(graph)
    content = {"format": FORMAT, "class": type(model).__name__, "options": _options(model), **described}
    folder.mkdir(parents=True, exist_ok=True)
    import onnx_ir as ir

    writers: dict[Path, Any] = {folder / WEIGHTS: store.write}
    for name, graph in graphs.items():
        writers[folder / graph_file(name)] = lambda file, graph=graph: ir.save(graph, file, format="protobuf")
    writers[folder / DESCRIPTION] = lambda file: file.write_text(json.dumps(content, indent=2) + "\n")
    replace_files(writers)


def _graphs(model: Any, piece_length: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The graphs by name, and what is to be said of them."""
    if not model.config.causal:
        return {"forward": _translated(whole(model))}, {"causal": False, "state": []}
    first, names, growing = model.init_state(1), None, growing_axes(model)
    names = state_names(first)
    rows = [tensor.numpy(force=True) for tensor in first.tensors()]
    state = [
        {"name": name, "dtype": str(row.dtype), "shape": [None, *row.shape[1:]], "grows": list(axes), "row": _plain(row)}
        for name, row, axes in zip(names, rows, growing, strict=True)
    ]
    described = {"causal": True, "state": state}
    if any(growing):
        graph = _translated(piece(model, None))
        return {"forward": _translated(whole(model)), "extend": graph}, described
    length: int = piece_length or getattr(model.config, "segment_length", PIECE)
    each = isinstance(model, LanguageModel)
    import onnx_ir as ir

    from .pieces import in_pieces

    translated = _translated(piece(model, length))
    copy = ir.from_proto(ir.to_proto(translated))
    step = copy if length == 1 else _translated(piece(model, 1))
    return {
        "forward": in_pieces(translated, length, initial=rows, each_position=each),
        "extend": in_pieces(ir.from_proto(ir.to_proto(copy)), length, initial=None, each_position=each),
        "step": step,
    }, described


def _translated(program: Program) -> Any:
    """The program as an ONNX graph."""
    with _quiet():
        translated = torch.onnx.export(
            program.exported(), input_names=program.inputs, output_names=program.outputs, dynamo=True, verbose=False
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


class _Weights:
    """What the graphs share, each tensor once."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, bytes], int] = {}
        self._size = 0

    def take(self, model: Any) -> None:
        """Let the graph read its larger weights from the file."""
        import onnx_ir as ir

        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor.nbytes < SMALL:
                continue
            data = tensor.tobytes()
            key = str(tensor.dtype), data
            if key not in self._places:
                self._places[key] = self._size
                self._size += -(-len(data) // 64) * 64
            value.const_value = ir.ExternalTensor(
                WEIGHTS, self._places[key], len(data), tensor.dtype, shape=tensor.shape, name=value.name, base_dir=""
            )

    def write(self, file: Path) -> None:
        with file.open("wb") as target:
            for (_, data), place in self._places.items():
                target.seek(place)
                target.write(data)
            target.truncate(max(self._size, 1))


def _options(model: nn.Module) -> dict[str, Any]:
    options: Any = model.options
    return dict(options())


def _check(model: nn.Module) -> None:
    require(
        isinstance(model, (LanguageModel, SequenceClassifier)),
        f"model must be a LanguageModel or a SequenceClassifier, got {type(model).__name__}",
    )
    config: Any = model.config
    require(not getattr(config, "cross_attention", False), "models with cross_attention=True are not exported to ONNX yet")
    require(
        not config.aligned_right,
        "a PerceiverAR is not exported to ONNX yet: which latents it computes follows from the numbers of tokens, not from shapes",
    )


def _check_free(folder: Path, overwrite: bool) -> None:
    names = [DESCRIPTION, WEIGHTS, *(graph_file(name) for name in ("forward", "extend", "step"))]
    present = [name for name in names if os.path.lexists(folder / name)]
    if present and not (overwrite and DESCRIPTION in present):
        hint = "pass overwrite=True to replace it, or name" if DESCRIPTION in present else "name"
        raise FileExistsError(f"{folder} has {', '.join(present)}: {hint} another folder")


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
