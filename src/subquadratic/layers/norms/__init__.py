"""Norms, alone and with a residual sum."""

from .layer import Gain, ScaleNorm

__all__ = ["Gain", "ScaleNorm"]
