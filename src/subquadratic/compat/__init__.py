"""The five published packages as they were: same names, keywords and numbers, so that a program changes one import line and old weights
load.

Each is a module here under its published name: ``performer_pytorch``, ``linformer``, ``fast_transformer_pytorch``,
``feedback_transformer_pytorch``, ``perceiver_ar_pytorch``. ``upgrade`` turns such a model into the core one where both compute the same;
``convert_checkpoint`` turns a published checkpoint into a folder, which ``load`` reads.
"""

import importlib
from typing import Any

from .convert import convert_checkpoint, load, load_converted
from .upgrade import upgrade  # at once, not on demand: the function must win over the module of the same name

PACKAGES = ("performer_pytorch", "linformer", "fast_transformer_pytorch", "feedback_transformer_pytorch", "perceiver_ar_pytorch")

__all__ = [
    "convert_checkpoint",
    "fast_transformer_pytorch",
    "feedback_transformer_pytorch",
    "linformer",
    "load",
    "load_converted",
    "perceiver_ar_pytorch",
    "performer_pytorch",
    "upgrade",
]


def __getattr__(name: str) -> Any:
    if name in PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
