"""Performer (Choromanski et al., arXiv 2009.14794): a Transformer whose attention is FAVOR+.

Axes: B batch, N length, D width, H heads, M features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..attention.favor import FavorAttention, check_local
from ..attention.favor_heads import Kernel, check_kernel
from ..layers.residual import Branch
from ..ops.errors import require, require_positive
from ..ops.scalars import as_numbers
from .backbone import StackBackbone, make_branch, make_feed_forward
from .config import BackboneConfig


@dataclass(frozen=True, kw_only=True)
class PerformerConfig(BackboneConfig):
    """Configuration of a :class:`Performer`."""

    model_type: ClassVar[str] = "performer"

    features: int | None = None
    """Random features M per head; None: floor(K ln K)."""
    kernel: Kernel = "softmax"
    """"softmax" (FAVOR+), "relu", "efficient", or a callable (which cannot be saved)."""
    feature_epsilon: float = 0.0
    """Added to every softmax feature; the published code has 1e-4, unbiased estimation 0."""
    orthogonal_scaling: int = 0
    """Row norms of the projection: 0 as Gaussian vectors have, 1 sqrt(K)."""
    redraw_interval: int | None = 1000
    """Optimizer steps between redraws of the projections (the published value); None: never. Acted on by the training engine."""
    local_heads: int | tuple[int, ...] = 0
    """Heads that attend exactly within a window instead; one number, or one per layer."""
    local_window: int = 256
    """Window of the local heads."""
    token_shift: bool = False
    """Shift half of the channels by one token before each layer."""
    cross_attention: bool = False
    """Each layer also attends to a context: self-attention, cross-attention, feed-forward."""
    context_dim: int | None = None
    """Width of the context; None: dim."""
    qkv_bias: bool = False
    """Biases of the query, key and value maps."""
    out_bias: bool = True
    """Bias of the attention's output map."""
    qk_norm: bool = False
    """One learned length per head for queries and keys, which keeps random features accurate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "local_heads", as_numbers(self.local_heads))  # JSON gives a list
        if isinstance(self.local_heads, tuple):
            require(
                len(self.local_heads) == self.depth,
                f"local_heads must be one number, or one per layer ({self.depth}), got {self.local_heads!r}",
            )
        check_kernel(
            kernel=self.kernel, features=self.features, feature_epsilon=self.feature_epsilon, orthogonal_scaling=self.orthogonal_scaling
        )
        for local_heads in self.local_heads_per_layer:
            check_local(heads=self.heads, local_heads=local_heads, local_window=self.local_window)
        require_positive(redraw_interval=self.redraw_interval, context_dim=self.context_dim)
        require(self.context_dim is None or self.cross_attention, "context_dim is for cross_attention=True")

    @property
    def local_heads_per_layer(self) -> tuple[int, ...]:
        """``local_heads``, one number per layer."""
        return self.local_heads if isinstance(self.local_heads, tuple) else (self.local_heads,) * self.depth

    def build(self) -> "Performer":
        """A freshly initialised :class:`Performer`."""
        return Performer(self)


class Performer(StackBackbone):
    """(B, N, D) -> (B, N, D) at cost O(N M D), causal or bidirectional; see :class:`PerformerConfig`.

    A causal model streams with a state of constant size.
    """

    config: PerformerConfig

    def __init__(self, config: PerformerConfig):
        super().__init__(config, _blocks(config))

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
        rotary=rotary,
        local_heads=local_heads,
        local_window=config.local_window,
        dropout=config.attention_dropout,
        qkv_bias=config.qkv_bias,
        out_bias=config.out_bias,
        qk_norm=config.qk_norm,
        context_dim=context_dim,
    )
