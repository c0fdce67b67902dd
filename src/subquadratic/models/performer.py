"""Performer (Choromanski et al., arXiv 2009.14794): a Transformer whose attention is FAVOR+.

Axes: B batch, N length, D width, H heads, M features.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..attention.favor.layer import FavorAttention
from ..layers.residual import Branch, StackState
from .backbone import StackBackbone, make_branch, make_feed_forward
from .configs.performer import PerformerConfig
from .performer_step import step_at_once


class Performer(StackBackbone):
    """(B, N, D) -> (B, N, D) at cost O(N M D), causal or bidirectional; see :class:`PerformerConfig`.

    A causal model streams with a state of constant size.
    """

    config: PerformerConfig

    def __init__(self, config: PerformerConfig):
        super().__init__(config, _blocks(config))

    def _advance(self, x: Tensor, state: StackState, mask: Tensor | None, shared: dict[str, Any]) -> tuple[Tensor, StackState]:
        found = step_at_once(self.stack, x, state, mask, shared.get("turns"))
        return super()._advance(x, state, mask, shared) if found is None else found

    @torch.no_grad()
    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Draw new projections in place, layer after layer from ``generator`` (a CPU generator: the same seed redraws alike on every
        rank)."""
        for module in self.modules():
            if isinstance(module, FavorAttention):
                module.redraw_(generator)


def _blocks(config: PerformerConfig) -> Iterator[dict[str, Branch | None]]:
    for local_heads in config.local_heads_per_layer:
        attention = _attention(config, causal=config.causal, rotary=config.positions == "rotary", local_heads=local_heads)
        cross = _attention(config, causal=False, context_dim=config.context_dim) if config.cross_attention else None
        yield {
            "attention": make_branch(config, attention, token_shift=config.token_shift),
            "cross_attention": None if cross is None else make_branch(config, cross, reads=("mask", "context", "context_mask")),
            "feed_forward": make_feed_forward(config, token_shift=config.token_shift),
        }


def _attention(
    config: PerformerConfig, *, causal: bool, rotary: bool = False, local_heads: int = 0, context_dim: int | None = None
) -> FavorAttention:
    return FavorAttention(
        config.dim,
        heads=config.heads,
        head_dim=config.head_dim,
        causal=causal,
        features=config.features,
        kernel=config.kernel,
        feature_epsilon=config.feature_epsilon,
        orthogonal_scaling=config.orthogonal_scaling,
        estimator=config.estimator,
        center=config.center,
        balance=config.balance,
        rotary=rotary,
        local_heads=local_heads,
        local_window=config.local_window,
        dropout=config.attention_dropout,
        qkv_bias=config.qkv_bias,
        out_bias=config.out_bias,
        qk_norm=config.qk_norm,
        context_dim=context_dim,
    )
