"""Additive attention: Fastformer (arXiv 2108.09084)."""

from .layer import AdditiveAttention, AdditiveState

__all__ = ["AdditiveAttention", "AdditiveState"]
