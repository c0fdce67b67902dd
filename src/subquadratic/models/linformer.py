"""Linformer (Wang et al., arXiv 2006.04768): a Transformer that attends to R learned sums of the sequence.

Axes: B batch, N length, D width, H heads, R slots.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..attention.low_rank import SHARING, LowRankAttention, slot_weights
from ..layers.residual import Branch
from ..layers.slots import PROJECTIONS, SlotProjection
from ..ops.errors import require, require_choice, require_positive
from .backbone import StackBackbone, make_branch, make_feed_forward
from .config import BackboneConfig


@dataclass(frozen=True, kw_only=True)
class LinformerConfig(BackboneConfig):
    """Configuration of a :class:`Linformer`."""

    model_type: ClassVar[str] = "linformer"

    max_length: int | None = None
    """The most positions; required, but for bidirectional models with projection "pool" or "conv", which take any number."""
    slots: int = 256
    """R, what the paper calls k; 256 is its choice for sequences of 512 and more."""
    share: str = "none"
    """"none": two projections per layer; "kv": one per layer for keys and values; "layer": one for the whole model (the paper's best)."""
    one_kv_head: bool = False
    """One head of keys and values for all queries."""
    projection: str = "learned"
    """How the sequence is summed into slots: "learned", "pool" or "conv"."""
    token_shift: bool = False
    """Shift half of the channels by one token before each layer."""
    cross_attention: bool = False
    """Each layer also attends to slots of a context: self-attention, cross-attention, feed-forward."""
    context_dim: int | None = None
    """Width of the context; None: dim."""
    context_length: int | None = None
    """The most positions of the context; None: max_length."""
    positions: str | None = "learned"
    """As in every model, but not "rotary": a slot mixes positions, so there is no angle to turn it by."""

    def __post_init__(self) -> None:
        require(
            self.positions != "rotary",
            "positions must not be 'rotary' for linformer: a slot mixes positions; use 'learned', 'fixed' or 'axial'",
        )
        super().__post_init__()
        require_positive(max_length=self.max_length, slots=self.slots, context_dim=self.context_dim, context_length=self.context_length)
        for name in ("context_dim", "context_length"):
            require(getattr(self, name) is None or self.cross_attention, f"{name} is for cross_attention=True")
        require_choice("share", self.share, SHARING)
        require_choice("projection", self.projection, PROJECTIONS)
        if self.max_length is None and (self.causal or self.projection == "learned"):
            raise ValueError("max_length is required: the number of positions that the slots have weights for, got None")

    @property
    def length_limit(self) -> int | None:
        """``max_length``."""
        return self.max_length

    def build(self) -> "Linformer":
        """A freshly initialised :class:`Linformer`."""
        return Linformer(self)


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
