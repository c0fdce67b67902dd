"""Attention to a few projected slots: Linformer (arXiv 2006.04768)."""

from .layer import LowRankAttention, LowRankState

__all__ = ["LowRankAttention", "LowRankState"]
