"""The feed-forward layer."""

from .layer import FeedForward

__all__ = ["FeedForward"]
