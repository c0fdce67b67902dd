"""The published package feedback-transformer-pytorch 0.0.11, as a change of one import line: names, keywords, checkpoints and numbers."""

from .feedback_transformer_pytorch import FeedbackTransformer, Memory

__all__ = ["FeedbackTransformer", "Memory"]
