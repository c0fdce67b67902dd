"""Sampling and the decoding loop."""

from .decode import generate, stream
from .sampling import keep_top_k, keep_top_p, sample

__all__ = ["generate", "keep_top_k", "keep_top_p", "sample", "stream"]
