"""What makes a model of a backbone: embedding, loss, heads, and files.

Names are loaded when they are first used: what reads a model's files needs no PyTorch.
"""

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .encoder_decoder import EncoderDecoder
    from .language_model import LanguageModel
    from .sequence_classifier import SequenceClassifier

__all__ = ["EncoderDecoder", "LanguageModel", "SequenceClassifier"]

_HOMES = {"EncoderDecoder": "encoder_decoder", "LanguageModel": "language_model", "SequenceClassifier": "sequence_classifier"}
__getattr__, __dir__ = on_first_use(__name__, globals(), _HOMES)
