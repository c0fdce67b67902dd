"""A model as a folder of ONNX graphs that share their weights."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import require_positive
from ..heads import EncoderDecoder
from ..heads.files import replace_files
from ..layers.modes import evaluating
from .exported import exported_model
from .graphs import graphs_of
from .layout import DESCRIPTION, FORMAT, GRAPHS, TOKENIZER, WEIGHTS, graph_file
from .programs import longest_source

NAMES = [DESCRIPTION, WEIGHTS, TOKENIZER, *map(graph_file, GRAPHS)]
SMALL = 256  # bytes from which a weight stands in the file that the graphs share


def onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    piece_length: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model as ONNX graphs, for any batch and any length.

    The folder ``path`` gets

    - ``forward.onnx``: tokens (B, N) int64 and mask (B, N) bool, True = real token, to logits, as the model's ``forward``;
    - of a causal model, ``extend.onnx``: also the tensors of the state before, each named by its place (``state.backbone.stack...``), to
      logits and the state after (``state.backbone.stack... .after``), as ``extend``; and ``step.onnx``: the same for one token (B, 1);
    - of an encoder-decoder, in the place of ``forward.onnx``, ``encoder.onnx``: source (B, S) int64 and source_mask (B, S) bool to the
      tensors of the state before the target's first token, among them all that the decoder reads of the source;
    - ``weights.bin``, which all of them read, and ``onnx.json``: what the graphs take, the state before the first token, and the model's
      options;
    - with ``tokenizer``, ``tokenizer.json``, which the package ``tokenizers`` opens.

    :class:`subquadratic.export.OnnxModel` runs them without PyTorch.

    Args:
        model: a ``LanguageModel``, ``SequenceClassifier`` or ``EncoderDecoder``, or a model of :mod:`subquadratic.hf` that is saved as
            one of these; it is exported as in eval mode, in float32.
        path: a folder, made if missing.
        tokenizer: of the model, a fast tokenizer of transformers (``subquadratic.hf.tokenizers.stock_tokenizer`` gives it for ours), so
            that ``OnnxModel`` goes from text to text. None: it takes tokens only.
        piece_length: tokens that the graphs of a causal model with a state of constant size take at a time, in a loop over the sequence.
            None: 64; of a Feedback Transformer, whose tokens come one after another anyway, its segment length.
        overwrite: replace an exported model that is there.

    Raises:
        ValueError: for other models, a Perceiver AR, a bidirectional Performer with ``estimator="dense"`` or ``balance="full"``, a
            tokenizer that is none, or ``piece_length`` below 1.
        FileExistsError: if the folder holds an exported model, or other files of these names.
        ModuleNotFoundError: without the packages ``onnx`` and ``onnxscript``.

    Bidirectional models, and the exact Transformer without a window, whose state grows, are one graph without a loop.
    """
    require_positive(piece_length=piece_length)
    folder = Path(path)
    _check_free(folder, overwrite)
    text, special = _described(tokenizer)
    exported = exported_model(model)
    with evaluating(exported), torch.no_grad():
        graphs, described = graphs_of(exported, piece_length)
    store = _Weights()
    for graph in graphs.values():
        store.take(graph)
    longest = {"max_length": exported.max_length} if not isinstance(exported, EncoderDecoder) else {
        "max_length": exported.decoder.max_length, "source_max_length": longest_source(exported),
    }  # fmt: skip
    content = {"format": FORMAT, "class": type(exported).__name__, "options": exported.options(), "tokens": special, **longest, **described}
    folder.mkdir(parents=True, exist_ok=True)
    import onnx_ir as ir

    writers: dict[Path, Any] = {folder / WEIGHTS: store.write}
    for name, graph in graphs.items():
        writers[folder / graph_file(name)] = lambda file, graph=graph: ir.save(graph, file, format="protobuf")
    if text is not None:
        writers[folder / TOKENIZER] = lambda file: file.write_text(text, encoding="utf-8")
    writers[folder / DESCRIPTION] = lambda file: file.write_text(json.dumps(content, indent=2) + "\n")
    replace_files(writers)
    for name in {*NAMES} - {file.name for file in writers}:  # of the model that was there before
        (folder / name).unlink(missing_ok=True)


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


def _described(tokenizer: Any) -> tuple[str | None, dict[str, Any] | None]:
    """A tokenizer as text, and its special tokens by their roles."""
    if tokenizer is None:
        return None, None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"tokenizer must be a fast tokenizer of transformers, such as stock_tokenizer gives, got {type(tokenizer).__name__}"
        )
    roles = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("pad", "bos", "eos")}
    return backend.to_str(), {**roles, "split": bool(getattr(tokenizer, "split_special_tokens", False))}


def _check_free(folder: Path, overwrite: bool) -> None:
    present = [name for name in NAMES if os.path.lexists(folder / name)]
    if present and not (overwrite and DESCRIPTION in present):
        hint = "pass overwrite=True to replace it, or name" if DESCRIPTION in present else "name"
        raise FileExistsError(f"{folder} has {', '.join(present)}: {hint} another folder")
    if TOKENIZER in present and '"tokens": {' not in (folder / DESCRIPTION).read_text():
        raise FileExistsError(f"{folder} has a {TOKENIZER} that is not of the exported model there: move it, or name another folder")
