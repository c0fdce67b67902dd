"""Sampling, the decoding loop, text in and out of it, and filling in masked places.

Names are loaded when they are first used: the options of sampling are there without PyTorch.
"""

from typing import TYPE_CHECKING

from ..lazy import on_first_use

if TYPE_CHECKING:
    from .decode import Decoding, generate, stream
    from .filling import Filled, fill, fill_steps
    from .sampling import filtered, keep_min_p, keep_top_k, keep_top_p, penalise, sample
    from .sampling_options import Sampling
    from .stopping import StopSearch
    from .text import generate_text

_HOMES = {
    "Decoding": "decode",
    "Filled": "filling",
    "Sampling": "sampling_options",
    "StopSearch": "stopping",
    "fill": "filling",
    "fill_steps": "filling",
    "filtered": "sampling",
    "generate": "decode",
    "generate_text": "text",
    "keep_min_p": "sampling",
    "keep_top_k": "sampling",
    "keep_top_p": "sampling",
    "penalise": "sampling",
    "sample": "sampling",
    "stream": "decode",
}

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


__getattr__, __dir__ = on_first_use(__name__, globals(), _HOMES)
