"""Sub-quadratic transformers behind one contract: forward over whole sequences, or extend a state of constant size.

Names are loaded when they are first used, so that `subq --help` need not wait for torch.
"""

from typing import TYPE_CHECKING

from .lazy import on_first_use

if TYPE_CHECKING:
    from . import attention, compat
    from .core.backend import use_backend
    from .core.backend_info import BackendInfo, backend_info
    from .core.errors import NotCausalError
    from .core.state import State
    from .heads import EncoderDecoder, LanguageModel, SequenceClassifier
    from .heads.quantization import quantize_
    from .loading import load
    from .models import (
        BackboneConfig,
        Fastformer,
        FastformerConfig,
        FeedbackTransformer,
        FeedbackTransformerConfig,
        GatedLinear,
        GatedLinearConfig,
        Linformer,
        LinformerConfig,
        PerceiverAR,
        PerceiverARConfig,
        Performer,
        PerformerConfig,
        Transformer,
        TransformerConfig,
    )

__version__ = "0.1.0"

__all__ = [
    "BackboneConfig",
    "BackendInfo",
    "EncoderDecoder",
    "Fastformer",
    "FastformerConfig",
    "FeedbackTransformer",
    "FeedbackTransformerConfig",
    "GatedLinear",
    "GatedLinearConfig",
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
    "load",
    "quantize_",
    "use_backend",
]

_HOMES = dict.fromkeys(__all__, "models") | {
    "EncoderDecoder": "heads",
    "LanguageModel": "heads",
    "SequenceClassifier": "heads",
    "BackendInfo": "core.backend_info",
    "NotCausalError": "core.errors",
    "State": "core.state",
    "attention": "attention",
    "backend_info": "core.backend_info",
    "compat": "compat",
    "load": "loading",
    "quantize_": "heads.quantization",
    "use_backend": "core.backend",
}
__getattr__, __dir__ = on_first_use(__name__, globals(), _HOMES)
