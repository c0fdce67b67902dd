"""Exact softmax attention, whole and in a window."""

from .layer import CacheState, ContextState, SoftmaxAttention

__all__ = ["CacheState", "ContextState", "SoftmaxAttention"]
