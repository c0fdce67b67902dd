"""A trained model in its folder, with what the folder says of its training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..heads.quantization import is_quantized, parameter_count
from ..loading import load
from .report import shortened
from .saved import find_saved, read_facts, read_options

LONGEST = 300  # characters of what a damaged file says of itself


@dataclass(frozen=True)
class Trained:
    """`options` are those of run.yaml and `facts` those of run.json; empty for a saved model that is no run."""

    folder: Path
    model: Any
    options: dict[str, Any]
    facts: dict[str, Any]

    @property
    def digest(self) -> str | None:
        """Of the data it was trained on."""
        found = self.facts.get("corpus")
        return found.get("digest") if isinstance(found, dict) else None

    def describe(self) -> str:
        """One line for people."""
        config = getattr(self.model, "config", None) or getattr(self.model, "decoder_config", None)
        name = getattr(config, "model_type", type(self.model).__name__)
        head = {"SequenceClassifier": ", classifier", "EncoderDecoder": ", encoder-decoder"}.get(type(self.model).__name__, "")
        if not head and config is not None:
            head = ", next tokens" if config.causal else ", masked tokens"
        held = ", int8" if is_quantized(self.model) else ""
        return f"{name}{head}, {parameter_count(self.model) / 1e6:.2f} M parameters{held}"


def load_trained(path: str, *, quantize: str | None = None) -> Trained:
    """The model in a run folder, or in any folder that save_pretrained or subq convert wrote, on the GPU if there is one.
    ``quantize``: as in `subquadratic.load`.

    Raises:
        ValueError: there is none, or its files are damaged; the message says what is there.
    """
    folder, model = load_model(path, quantize=quantize)
    return Trained(folder, model, read_options(folder / "run.yaml"), read_facts(folder / "run.json"))


def load_model(path: str, *, quantize: str | None = None) -> tuple[Path, Any]:
    """The folder and the model of `load_trained`, for those who do not ask how it was trained.

    Raises:
        ValueError: as there.
    """
    saved = find_saved(path)
    folder = saved.folder
    with telling_why(folder):
        model = load(folder, quantize=quantize)
    return folder, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


@contextlib.contextmanager
def telling_why(folder: Path) -> Iterator[None]:
    """Whatever a damaged model makes of the `with` block, as one ValueError."""
    try:
        yield
    except (ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:  # RuntimeError: sizes that no memory holds
        reason = shortened(" ".join(str(error).split()), LONGEST)
        raise ValueError(f"run: the model in {folder} cannot be loaded: {reason}") from error
