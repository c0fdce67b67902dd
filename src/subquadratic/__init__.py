"""Five sub-quadratic transformers behind one contract: forward over whole sequences, or extend a state of constant size."""

from . import attention
from .models import (
    BackboneConfig,
    EncoderDecoder,
    Fastformer,
    FastformerConfig,
    LanguageModel,
    Linformer,
    LinformerConfig,
    Performer,
    PerformerConfig,
    SequenceClassifier,
    Transformer,
    TransformerConfig,
)
from .ops.errors import NotCausalError
from .ops.state import State

__version__ = "0.1.0"

__all__ = [
    "BackboneConfig",
    "EncoderDecoder",
    "Fastformer",
    "FastformerConfig",
    "LanguageModel",
    "Linformer",
    "LinformerConfig",
    "NotCausalError",
    "Performer",
    "PerformerConfig",
    "SequenceClassifier",
    "State",
    "Transformer",
    "TransformerConfig",
    "__version__",
    "attention",
    "compat",
]


def __getattr__(name: str) -> object:
    if name == "compat":  # only those who move from a published package pay for it
        import importlib

        return importlib.import_module(".compat", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
