"""Backbones, one file per paper, and the heads that make models of them."""

from .config import BackboneConfig, config_class, model_types
from .encoder_decoder import EncoderDecoder
from .fastformer import Fastformer, FastformerConfig
from .feedback_transformer import FeedbackTransformer, FeedbackTransformerConfig
from .language_model import LanguageModel
from .linformer import Linformer, LinformerConfig
from .perceiver_ar import PerceiverAR, PerceiverARConfig
from .performer import Performer, PerformerConfig
from .sequence_classifier import SequenceClassifier
from .transformer import Transformer, TransformerConfig

__all__ = [
    "BackboneConfig",
    "EncoderDecoder",
    "Fastformer",
    "FastformerConfig",
    "FeedbackTransformer",
    "FeedbackTransformerConfig",
    "LanguageModel",
    "Linformer",
    "LinformerConfig",
    "PerceiverAR",
    "PerceiverARConfig",
    "Performer",
    "PerformerConfig",
    "SequenceClassifier",
    "Transformer",
    "TransformerConfig",
    "config_class",
    "model_types",
]
