"""FAVOR+: Performer (arXiv 2009.14794)."""

from .layer import FavorAttention, FavorState

__all__ = ["FavorAttention", "FavorState"]
