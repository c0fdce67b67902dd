"""Attention to a memory that all layers share: Feedback Transformer (arXiv 2002.09402)."""

from .layer import FeedbackAttention, FeedbackMemory, RelativeBias

__all__ = ["FeedbackAttention", "FeedbackMemory", "RelativeBias"]
