"""What `subq generate` and `subq fill` need of a folder: the model, its tokenizer, and what it does with text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST = 300  # characters of what a damaged file says of itself


@dataclass(frozen=True)
class TextModel:
    """`kind` is "causal" (goes on with a text), "masked" (fills one in) or "pairs" (reads a source, writes a target)."""

    folder: Path
    model: Any
    tokenizer: Any
    kind: str

    @property
    def device(self) -> Any:
        return next(self.model.parameters()).device


def load(path: str) -> TextModel:
    """The model of text in a folder, on the GPU if there is one.

    Raises:
        ValueError: there is none; the message says what is there.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"run: {folder} is a file; name the folder it is in" if folder.exists() else f"run: no such folder: {folder}")
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"run: {folder} holds no model ({' and '.join(missing)} missing); train one with subq train")

    from ..data import load_tokenizer
    from ..models.saving import read_config

    name = str(read_config(folder)["class"])
    model, kind = _load_model(folder, name)
    tokenizer = load_tokenizer(folder)

    import torch

    return TextModel(folder, model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer, kind)


def _load_model(folder: Path, name: str) -> tuple[Any, str]:
    from ..models.encoder_decoder import EncoderDecoder
    from ..models.language_model import LanguageModel

    if name == "SequenceClassifier":
        raise ValueError(f"run: the model in {folder} is a classifier: it gives classes, not text; measure it with subq evaluate {folder}")
    heads: dict[str, Any] = {"LanguageModel": LanguageModel, "EncoderDecoder": EncoderDecoder}
    if name not in heads and not name.startswith("compat."):
        raise ValueError(f"run: {folder / 'config.json'} describes a {name[:80]}, which is no model of text")
    try:
        model: Any = heads.get(name, LanguageModel).from_pretrained(folder)
    except (ValueError, TypeError, RuntimeError, MemoryError) as error:  # RuntimeError: sizes that no memory holds
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= LONGEST else reason[:LONGEST] + " ..."
        raise ValueError(f"run: the model in {folder} cannot be loaded: {reason}") from error
    if isinstance(model, EncoderDecoder):
        return model, "pairs"
    if isinstance(model, LanguageModel):
        return model, "causal" if model.config.causal else "masked"
    from ..compat.continuation import Continuation
    from ..ops.errors import NotCausalError

    try:
        return Continuation(model), "causal"
    except NotCausalError as error:
        raise ValueError(f"run: the model in {folder} cannot continue a text: {error}") from error
