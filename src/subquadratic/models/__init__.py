"""Backbones, one file or folder per paper, and their configurations.

Names are loaded when they are first used: configurations are there without PyTorch.
"""

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .config import BackboneConfig, config_class, model_types
    from .configs.fastformer import FastformerConfig
    from .configs.feedback_transformer import FeedbackTransformerConfig
    from .configs.gated_linear import GatedLinearConfig
    from .configs.linformer import LinformerConfig
    from .configs.perceiver_ar import PerceiverARConfig
    from .configs.performer import PerformerConfig
    from .configs.transformer import TransformerConfig
    from .fastformer import Fastformer
    from .feedback_transformer.backbone import FeedbackTransformer
    from .gated_linear import GatedLinear
    from .linformer import Linformer
    from .perceiver_ar.backbone import PerceiverAR
    from .performer import Performer
    from .transformer import Transformer

_HOMES = {
    "BackboneConfig": "config",
    "Fastformer": "fastformer",
    "FastformerConfig": "configs.fastformer",
    "FeedbackTransformer": "feedback_transformer",
    "FeedbackTransformerConfig": "configs.feedback_transformer",
    "GatedLinear": "gated_linear",
    "GatedLinearConfig": "configs.gated_linear",
    "Linformer": "linformer",
    "LinformerConfig": "configs.linformer",
    "PerceiverAR": "perceiver_ar",
    "PerceiverARConfig": "configs.perceiver_ar",
    "Performer": "performer",
    "PerformerConfig": "configs.performer",
    "Transformer": "transformer",
    "TransformerConfig": "configs.transformer",
    "config_class": "config",
    "model_types": "config",
}

__all__ = [
    "BackboneConfig",
    "Fastformer",
    "FastformerConfig",
    "FeedbackTransformer",
    "FeedbackTransformerConfig",
    "GatedLinear",
    "GatedLinearConfig",
    "Linformer",
    "LinformerConfig",
    "PerceiverAR",
    "PerceiverARConfig",
    "Performer",
    "PerformerConfig",
    "Transformer",
    "TransformerConfig",
    "config_class",
    "model_types",
]

__getattr__, __dir__ = on_first_use(__name__, globals(), _HOMES)
