"""Gated linear attention: a sum of keys and values that forgets (GLA, arXiv 2312.06635; RetNet, arXiv 2307.08621)."""

from .layer import GatedLinearAttention, GatedLinearState

__all__ = ["GatedLinearAttention", "GatedLinearState"]
