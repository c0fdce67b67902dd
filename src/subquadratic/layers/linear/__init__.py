"""Linear maps, several of one input at a time."""

from .layer import Linear

__all__ = ["Linear"]
