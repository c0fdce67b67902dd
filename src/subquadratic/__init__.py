"""Five sub-quadratic transformers behind one contract: forward over whole sequences, or extend a state of constant size.

Names are loaded when they are first used, so that `subq --help` need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import attention, compat
    from .models import (
        BackboneConfig,
        EncoderDecoder,
        Fastformer,
        FastformerConfig,
        FeedbackTransformer,
        FeedbackTransformerConfig,
        LanguageModel,
        Linformer,
        LinformerConfig,
        PerceiverAR,
        PerceiverARConfig,
        Performer,
        PerformerConfig,
        SequenceClassifier,
        Transformer,
        TransformerConfig,
    )
    from .ops.backend import use_backend
    from .ops.backend_info import BackendInfo, backend_info
    from .ops.errors import NotCausalError
    from .ops.state import State

__version__ = "0.1.0"

__all__ = [
    "BackboneConfig",
    "BackendInfo",
    "EncoderDecoder",
    "Fastformer",
    "FastformerConfig",
    "FeedbackTransformer",
    "FeedbackTransformerConfig",
    "LanguageModel",
    "Linformer",
    "LinformerConfig",
    "NotCausalError",
    "PerceiverAR",
    "PerceiverARConfig",
    "Performer",
    "PerformerConfig",
    "SequenceClassifier",
    "State",
    "Transformer",
    "TransformerConfig",
    "__version__",
    "attention",
    "backend_info",
    "compat",
    "use_backend",
]

HOMES = {
    "BackendInfo": ".ops.backend_info",
    "NotCausalError": ".ops.errors",
    "State": ".ops.state",
    "backend_info": ".ops.backend_info",
    "use_backend": ".ops.backend",
}


def __getattr__(name: str) -> object:
    if name in ("attention", "compat"):
        return importlib.import_module(f".{name}", __name__)
    if name in __all__:
        value = getattr(importlib.import_module(HOMES.get(name, ".models"), __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
