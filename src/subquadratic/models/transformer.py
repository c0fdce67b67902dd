"""Transformer with exact softmax attention (arXiv 1706.03762, pre-norm, rotary positions): the baseline of every comparison.

Axes: B batch, N length, D width, H heads, W window.
"""

from collections.abc import Iterator

from ..attention.softmax.layer import SoftmaxAttention
from ..layers.residual import Branch
from .backbone import StackBackbone, make_branch, make_feed_forward
from .configs.transformer import TransformerConfig


class Transformer(StackBackbone):
    """(B, N, D) -> (B, N, D) at cost O(N^2 D), or O(N W D) with a window, causal or bidirectional; see :class:`TransformerConfig`.

    A causal model streams with a cache of keys and values.
    """

    config: TransformerConfig
    constant_state = False  # a cache of keys and values

    def __init__(self, config: TransformerConfig):
        super().__init__(config, _blocks(config))


def _blocks(config: TransformerConfig) -> Iterator[dict[str, Branch | None]]:
    for _ in range(config.depth):
        attention = _attention(config, causal=config.causal, window=config.window, rotary=config.positions == "rotary")
        cross = _attention(config, causal=False, context_dim=config.context_dim) if config.cross_attention else None
        yield {
            "attention": make_branch(config, attention, token_shift=config.token_shift),
            "cross_attention": None if cross is None else make_branch(config, cross, reads=("mask", "context", "context_mask")),
            "feed_forward": make_feed_forward(config, token_shift=config.token_shift),
        }


def _attention(
    config: TransformerConfig, *, causal: bool, window: int | None = None, rotary: bool = False, context_dim: int | None = None
) -> SoftmaxAttention:
    return SoftmaxAttention(
        config.dim,
        heads=config.heads,
        head_dim=config.head_dim,
        causal=causal,
        window=window,
        rotary=rotary,
        dropout=config.attention_dropout,
        qkv_bias=config.qkv_bias,
        out_bias=config.out_bias,
        qk_norm=config.qk_norm,
        context_dim=context_dim,
    )
