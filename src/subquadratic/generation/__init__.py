"""Sampling, the decoding loop, text in and out of it, and filling in masked places."""

from .decode import Decoding, generate, stream
from .filling import Filled, fill, fill_steps
from .sampling import Sampling, filtered, keep_min_p, keep_top_k, keep_top_p, penalise, sample
from .stopping import StopSearch
from .text import generate_text

__all__ = [
    "Decoding",
    "Filled",
    "Sampling",
    "StopSearch",
    "fill",
    "fill_steps",
    "filtered",
    "generate",
    "generate_text",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "penalise",
    "sample",
    "stream",
]
