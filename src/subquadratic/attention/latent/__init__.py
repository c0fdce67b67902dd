"""Cross-attention of right-aligned latents: Perceiver AR (arXiv 2202.07765)."""

from .layer import LatentAttention, LatentCache

__all__ = ["LatentAttention", "LatentCache"]
