"""The Feedback Transformer (arXiv 2002.09402)."""

from .backbone import FeedbackTransformer

__all__ = ["FeedbackTransformer"]
