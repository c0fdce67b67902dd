"""Perceiver AR (arXiv 2202.07765)."""

from .backbone import PerceiverAR

__all__ = ["PerceiverAR"]
