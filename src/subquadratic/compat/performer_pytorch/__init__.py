"""The published package performer-pytorch 1.1.4, as a change of one import line: its names, keywords, checkpoints and results.

What differs on purpose: padding masks work, the future does not leak, samplers sample what they say, crashes are gone, unknown keywords are
refused.
"""

from .autoregressive_wrapper import AutoregressiveWrapper
from .performer_enc_dec import PerformerEncDec
from .performer_pytorch import CrossAttention, FastAttention, Performer, PerformerLM, ProjectionUpdater, SelfAttention

__all__ = [
    "AutoregressiveWrapper",
    "CrossAttention",
    "FastAttention",
    "Performer",
    "PerformerEncDec",
    "PerformerLM",
    "ProjectionUpdater",
    "SelfAttention",
]
