"""A saved model in its folder: what it is and how it was trained, without PyTorch and its weights."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import heads
from ..core.errors import an
from ..heads.files import CONFIG, missing_files, read_config
from .report import shortened


@dataclass(frozen=True)
class Saved:
    """`head` is the class of the model, of `heads` or with the prefix `compat.`, `content` the rest of its config.json."""

    folder: Path
    head: str
    content: dict[str, Any]

    @property
    def kind(self) -> str | None:
        """What it does with text: "causal" goes on with one, "masked" fills one in, "pairs" writes one for another, "classes" sorts them;
        None for a model of a published package, which only its weights tell."""
        other = {"SequenceClassifier": "classes", "EncoderDecoder": "pairs"}.get(self.head)
        if other is not None or self.head != "LanguageModel":
            return other
        config = self.content.get("config")
        return "masked" if isinstance(config, dict) and config.get("causal") is False else "causal"


def find_saved(path: str) -> Saved:
    """What the folder that `run` names says of its model.

    Raises:
        ValueError: there is none, or none of this package.
    """
    folder = find_folder(path)
    if missing := missing_files(folder):
        raise ValueError(f"run: {folder} holds no model ({' and '.join(missing)} missing); train one with subq train")
    content = read_config(folder)
    head = str(content.pop("class"))
    if head not in heads.__all__ and not head.startswith("compat."):
        raise ValueError(f"run: {folder / CONFIG} describes {an(shortened(head, 80))}, which is not a model of this package")
    return Saved(folder, head, content)


def find_folder(path: str) -> Path:
    """The folder that `run` names.

    Raises:
        ValueError: there is none.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"run: {folder} is a file; name the folder it is in" if folder.exists() else f"run: no such folder: {folder}")
    return folder


def learned_task(folder: Path) -> str | None:
    """The synthetic task that a run learned; None for a model of text or rows, and where the folder does not say."""
    return run_options(folder).get("task")


def trained_on_bytes(folder: Path) -> bool:
    """Whether a run read files as their bytes as they are; False where the folder does not say."""
    return bool(run_options(folder).get("binary"))


def run_options(folder: Path) -> dict[str, Any]:
    """The options of a run; none where the folder does not say."""
    with contextlib.suppress(ValueError):
        return read_options(folder / "run.yaml")
    return {}


def read_options(path: Path) -> dict[str, Any]:
    import yaml

    return _read(path, yaml.safe_load, (yaml.YAMLError, UnicodeDecodeError))


def read_facts(path: Path) -> dict[str, Any]:
    return _read(path, json.loads, (ValueError,))


def _read(path: Path, parse: Callable[[str], Any], errors: tuple[type[Exception], ...]) -> dict[str, Any]:
    way_out = "the model itself is whole: copy it without this file, and give --data"
    try:
        found = parse(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except errors as error:
        raise ValueError(f"run: {path} is damaged: {' '.join(str(error).split())}; {way_out}") from error
    if not isinstance(found, dict):
        raise ValueError(f"run: {path} is damaged: it holds {type(found).__name__}; {way_out}")
    return found
