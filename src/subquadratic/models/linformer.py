"""Linformer (Wang et al., arXiv 2006.04768): a Transformer that attends to R learned sums of the sequence.

Axes: B batch, N length, D width, H heads, R slots.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..attention.low_rank.layer import LowRankAttention, slot_weights
from ..attention.low_rank.projection import SlotProjection
from ..layers.residual import Branch
from .backbone import StackBackbone, make_branch, make_feed_forward
from .configs.linformer import LinformerConfig


class Linformer(StackBackbone):
    """(B, N, D) -> (B, N, D) at cost O(N R D), causal or bidirectional; see :class:`LinformerConfig`.

    A causal model streams with a state of constant size, up to ``max_length`` tokens.
    """

    config: LinformerConfig

    def __init__(self, config: LinformerConfig):
        super().__init__(config, _blocks(config))
        layerwise = config.share == "layer"
        self.projection = (
            SlotProjection(config.slots, max_length=config.max_length, kind=config.projection, shared=True) if layerwise else None
        )

    def shared(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> dict[str, Any]:
        """E of all layers at the positions of ``x``, with layer-wise sharing."""
        if self.projection is None:
            return {}
        return {"key_weights": slot_weights(self.projection, x, mask, seen, causal=self.config.causal)[0]}


def _blocks(config: LinformerConfig) -> Iterator[dict[str, Branch | None]]:
    for _ in range(config.depth):
        attention = _attention(config, causal=config.causal, share=config.share, max_length=config.max_length)
        cross = None
        if config.cross_attention:
            share = "kv" if config.share == "layer" else config.share  # the model's projection is for its own positions
            length = config.context_length or config.max_length
            cross = _attention(config, causal=False, share=share, max_length=length, context_dim=config.context_dim)
        yield {
            "attention": make_branch(config, attention, reads=("mask", "key_weights"), token_shift=config.token_shift),
            "cross_attention": None if cross is None else make_branch(config, cross, reads=("mask", "context", "context_mask")),
            "feed_forward": make_feed_forward(config, token_shift=config.token_shift),
        }


def _attention(
    config: LinformerConfig, *, causal: bool, share: str, max_length: int | None, context_dim: int | None = None
) -> LowRankAttention:
    return LowRankAttention(
        config.dim,
        heads=config.heads,
        head_dim=config.head_dim,
        max_length=max_length,
        slots=config.slots,
        causal=causal,
        share=share,
        one_kv_head=config.one_kv_head,
        projection=config.projection,
        dropout=config.attention_dropout,
        context_dim=context_dim,
    )
