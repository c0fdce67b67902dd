"""Gated linear attention (Yang et al., arXiv 2312.06635): a Transformer whose attention is a sum that fades.

Axes: B batch, N length, D width, H heads, K width of queries and keys, V width of values.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..attention.gated_linear.layer import GatedLinearAttention
from ..layers.multi_head import position_turns
from ..layers.residual import Branch
from .backbone import StackBackbone, make_branch, make_feed_forward
from .configs.gated_linear import GatedLinearConfig


class GatedLinear(StackBackbone):
    """(B, N, D) -> (B, N, D) at cost O(N D K), causal only; see :class:`GatedLinearConfig`. Streams with a state of constant size."""

    config: GatedLinearConfig

    def __init__(self, config: GatedLinearConfig):
        super().__init__(config, _blocks(config))

    def shared(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> dict[str, Any]:
        """``turns`` at the width of queries and keys, with rotary positions."""
        return {"turns": position_turns(x, mask, seen, self.config.key_width)} if self.config.positions == "rotary" else {}


def _blocks(config: GatedLinearConfig) -> Iterator[dict[str, Branch | None]]:
    for _ in range(config.depth):
        attention = GatedLinearAttention(
            config.dim,
            heads=config.heads,
            head_dim=config.head_dim,
            key_dim=config.key_dim,
            decay=config.decay,
            decay_rank=config.decay_rank,
            decay_temperature=config.decay_temperature,
            output_gate=config.output_gate,
            rotary=config.positions == "rotary",
            dropout=config.attention_dropout,
            qkv_bias=config.qkv_bias,
            out_bias=config.out_bias,
        )
        yield {
            "attention": make_branch(config, attention, token_shift=config.token_shift),
            "feed_forward": make_feed_forward(config, token_shift=config.token_shift),
        }
