"""FAVOR+: Performer (arXiv 2009.14794)."""

from .fitting import fitting
from .layer import FavorAttention, FavorState
from .sharp import causal_favor_attention, favor_attention

__all__ = ["FavorAttention", "FavorState", "causal_favor_attention", "favor_attention", "fitting"]
