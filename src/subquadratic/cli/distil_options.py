"""The options of `subq distil`, and all that can be said against them before PyTorch is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.errors import require_positive
from ..training.numbers import require_value
from ..training.options import parse_duration
from ..training.outputs import check_folder, named

REPORT = "distil.json"  # in the folder of a result
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "tokenizer.model", "vocab.json")


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """Replace the attention of a Hugging Face checkpoint by one of linear cost, and train it to give what the original gives."""

    checkpoint: str
    """Folder of an encoder or a causal language model, as transformers or sentence-transformers saved it."""
    out: str
    """Folder to write: a checkpoint of transformers, with the report."""
    data: str | None = None
    """Text to train on, as in subq train: a file, a folder, a pattern, -, or stdlib. Default: docstrings and descriptions of the Python
    packages installed here."""
    attention: Literal["favor", "linformer", "window"] = "favor"
    """Attention to put in: favor (FAVOR+ of the Performer), linformer (encoders only) or window."""
    features: int = 256
    """Random features of favor."""
    slots: int = 256
    """Slots of linformer."""
    window: int = 256
    """Tokens that window attention sees."""
    budget: str | None = None
    """Time in all, such as 30m or 1h30m. Default: 30m, or as long as --steps take."""
    steps: int | None = None
    """Optimizer steps in all; ends the training where it comes before the budget."""
    batch_size: int = 16
    """Texts of a step."""
    length: int = 128
    """Tokens of the longest texts to train and measure on, if the model takes so many."""
    layerwise: float = 0.3
    """Share of the training that goes to the attention layers one by one; the rest trains the whole model."""
    learning_rate: float = 2e-4
    """Peak learning rate of attention in the whole model's training; other weights have 0.3 of it, attention layers one by one three
    times as much."""
    weights: str | None = None
    """Folder of an earlier result to go on from."""
    overwrite: bool = False
    """Replace an earlier result in the folder."""
    threads: int | None = None
    """Number of threads. Default: one per core."""
    longest: int = 16384
    """Tokens up to which time and memory are measured."""
    seed: int = 0
    """Random seed, for texts and random features."""
    quiet: bool = False
    """Print nothing but errors."""

    def check(self) -> None:
        """Raises ValueError for a value out of range, a folder without such a model, data that are not there, a place that is taken."""
        require_positive(features=self.features, slots=self.slots, window=self.window)
        require_positive(steps=self.steps, batch_size=self.batch_size, longest=self.longest)
        require_value(self.length >= 8, "length", "at least 8", self.length)
        require_value(0 <= self.layerwise <= 1, "layerwise", "from 0 to 1", self.layerwise)
        require_value(0 < self.learning_rate <= 1, "learning_rate", "above 0 and at most 1", self.learning_rate)
        require_value(self.seed >= 0, "seed", "at least 0", self.seed)
        self.seconds()
        check_model("checkpoint", named("checkpoint", self.checkpoint))
        if self.weights is not None:
            check_model("weights", named("weights", self.weights))
        out = named("out", self.out)
        check_folder("out", out)
        check_free(out, overwrite=self.overwrite)
        if out.exists() and out.samefile(named("checkpoint", self.checkpoint)):
            raise ValueError(f"out: {out} is the folder of the original; name another folder")
        for option in ("checkpoint", "weights"):
            place = getattr(self, option)
            if place is not None and Path(place).expanduser().resolve() in out.resolve().parents:
                raise ValueError(f"out: {out} is inside the folder of the {'original' if option == 'checkpoint' else option}; name another")
        if self.data is not None:
            from ..data.finding import find_source

            find_source(self.data)

    def seconds(self) -> float | None:
        """The budget in seconds; None where only steps end the training."""
        if self.budget is None:
            return None if self.steps is not None else parse_duration("30m")
        return parse_duration(self.budget)


def check_model(option: str, folder: Path) -> None:
    """Raises ValueError where a folder holds no model of transformers, or one whose weights are not safetensors."""
    if not folder.is_dir():
        what = f"{folder} is a file" if folder.exists() else f"there is no folder {folder}"
        raise ValueError(f"{option}: {what}; name the folder of a model that is on this machine (nothing is downloaded)")
    inner = folder / _first_module(folder)
    config = _read(inner / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(f"{option}: {inner} is no model of transformers: it has no config.json with a model_type")
    if config["model_type"] == "subquadratic":
        raise ValueError(f"{option}: {folder} is a model of this package; name one of transformers")
    if config.get("is_encoder_decoder"):
        raise ValueError(f"{option}: {folder} holds an encoder-decoder, which is not supported; name an encoder or a language model")
    if not any(inner.glob("*.safetensors")):
        raise ValueError(f"{option}: {inner} has no weights in safetensors; open it with transformers and save it anew")
    if not any((inner / name).is_file() for name in TOKENIZERS):
        raise ValueError(f"{option}: {inner} has no tokenizer; save it there with the tokenizer's save_pretrained")


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raises ValueError where there is something in the folder, other than an earlier result that may be replaced."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    result = _read(out / REPORT)
    files = set(result["files"]) if isinstance(result, dict) and isinstance(result.get("files"), list) else None
    if files is None:
        raise ValueError(f"out: {out} is not empty, and holds no result of subq distil; name another folder")
    if not overwrite:
        raise ValueError(f"out: {out} holds an earlier result; name another folder, or give --overwrite to replace it")
    foreign = next((path for path in out.rglob("*") if not path.is_dir() and str(path.relative_to(out)) not in files), None)
    if foreign is not None:
        raise ValueError(f"out: {foreign} was not written by subq distil, and would be lost; move it, or name another folder")


def _first_module(folder: Path) -> str:
    """Where a model of sentence-transformers has its transformer."""
    entries = _read(folder / "modules.json")
    first = entries[0] if isinstance(entries, list) and entries else None
    return str(first.get("path", "")) if isinstance(first, dict) else ""


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
