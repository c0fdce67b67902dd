"""The names of the published module ``performer_pytorch.performer_pytorch`` that programs import."""

from .attention import Attention, CrossAttention, SelfAttention
from .fast_attention import FastAttention
from .performer import Performer
from .performer_lm import PerformerLM
from .positions import AbsolutePositionalEmbedding, AxialPositionalEmbedding, FixedPositionalEmbedding
from .redraw import ProjectionUpdater

__all__ = [
    "AbsolutePositionalEmbedding",
    "Attention",
    "AxialPositionalEmbedding",
    "CrossAttention",
    "FastAttention",
    "FixedPositionalEmbedding",
    "Performer",
    "PerformerLM",
    "ProjectionUpdater",
    "SelfAttention",
]
