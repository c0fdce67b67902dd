"""The published package ``perceiver-ar-pytorch`` (0.0.10): the same names, keywords, parameter names and numbers."""

from .autoregressive_wrapper import AutoregressiveWrapper
from .perceiver_ar_pytorch import CausalAttention, CausalPrefixAttention, PerceiverAR

__all__ = ["AutoregressiveWrapper", "CausalAttention", "CausalPrefixAttention", "PerceiverAR"]
