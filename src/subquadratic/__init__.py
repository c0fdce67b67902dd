"""Five sub-quadratic transformers behind one contract: forward over whole sequences, or extend a state of constant size.

Names are loaded when they are first used, so that `subq --help` need not wait for torch.
"""

from typing import TYPE_CHECKING

from .lazy import on_first_use

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

_HOMES = dict.fromkeys(__all__, "models") | {
    "BackendInfo": "ops.backend_info",
    "NotCausalError": "ops.errors",
    "State": "ops.state",
    "attention": "attention",
    "backend_info": "ops.backend_info",
    "compat": "compat",
    "use_backend": "ops.backend",
}
__getattr__, __dir__ = on_first_use(__name__, globals(), _HOMES)
