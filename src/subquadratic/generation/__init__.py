"""Sampling, the decoding loop, text in and out of it, and filling in masked places."""

from .decode import Decoding, generate, stream
from .sampling import Sampling, filtered, keep_min_p, keep_top_k, keep_top_p, penalise, sample
from .stopping import StopSearch

__all__ = [
    "Decoding",
    "Sampling",
    "StopSearch",
    "filtered",
    "generate",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "penalise",
    "sample",
    "stream",
]
