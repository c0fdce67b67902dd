"""Fastformer (Wu et al., arXiv 2108.09084): a Transformer with additive attention.

Axes: B batch, N length, D width, H heads, K head width.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..attention.additive.layer import AdditiveAttention, logit_vectors
from ..layers.residual import Branch
from .backbone import StackBackbone, make_branch, make_feed_forward
from .configs.fastformer import FastformerConfig


class Fastformer(StackBackbone):
    """(B, N, D) -> (B, N, D) at cost O(N D) in addition to the linear layers, causal or bidirectional; see :class:`FastformerConfig`.

    A causal model streams with a state of constant size.
    """

    config: FastformerConfig

    def __init__(self, config: FastformerConfig):
        super().__init__(config, _blocks(config))
        inner = config.heads * config.head_width
        self.query_logits = nn.Parameter(logit_vectors(config.heads, inner)) if config.tie_logit_vectors else None
        self.key_logits = nn.Parameter(logit_vectors(config.heads, inner)) if config.tie_logit_vectors else None

    def shared(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> dict[str, Any]:
        """Also the logit vectors, where they are tied."""
        tied = {} if self.query_logits is None else {"query_logits": self.query_logits, "key_logits": self.key_logits}
        return super().shared(x, mask, seen) | tied


def _blocks(config: FastformerConfig) -> Iterator[dict[str, Branch | None]]:
    for _ in range(config.depth):
        attention = AdditiveAttention(
            config.dim,
            heads=config.heads,
            head_dim=config.head_dim,
            causal=config.causal,
            share_query_value=config.share_query_value,
            rotary=config.positions == "rotary",
            tie_logit_vectors=config.tie_logit_vectors,
            dropout=config.attention_dropout,
        )
        yield {
            "attention": make_branch(
                config, attention, reads=("mask", "turns", "query_logits", "key_logits"), token_shift=config.token_shift
            ),
            "feed_forward": make_feed_forward(config, token_shift=config.token_shift),
        }
