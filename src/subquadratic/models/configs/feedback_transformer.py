"""The configuration of a FeedbackTransformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...core.choices import check_buckets
from ...core.errors import require, require_positive
from ..config import BackboneConfig

if TYPE_CHECKING:
    from ..feedback_transformer.backbone import FeedbackTransformer


@dataclass(frozen=True, kw_only=True)
class FeedbackTransformerConfig(BackboneConfig):
    """Configuration of a :class:`FeedbackTransformer`."""

    model_type: ClassVar[str] = "feedback_transformer"
    causal_only: ClassVar[bool] = True

    ff_glu: bool = True
    """Gate the feed-forward layers, as the published package does; the paper has plain ones."""
    positions: str | None = None
    """"learned", "fixed" or "axial", added to the embedding by the heads, or None: the relative bias says where memories are."""
    segment_length: int = 1
    """1 is the paper's model: a token attends to the memories of earlier tokens. C > 1 computes C tokens in parallel: they attend to the
    memories of earlier segments and causally to each other's hidden states. An approximation, some C times faster."""
    memory_length: int = 256
    """How many memories are kept; older ones are forgotten."""
    share_key_value: bool = True
    """One key-value map of the memory for all layers, as in the published package; False: one per layer, as in the authors' code."""
    keep_last_hidden: bool = False
    """The memory is the last layer's output alone, instead of the learned mixture of all layers."""
    relative_bias: bool = True
    """Learned bias by the distance between a token and a memory, in T5's buckets."""
    relative_buckets: int = 32
    """Buckets of the relative bias."""
    relative_max_distance: int = 128
    """Distances from about here on share the last bucket."""
    detach_every: int | None = None
    """Truncated back-propagation: in each call, gradients do not reach memories from before the last multiple of this many tokens. None:
    they reach all."""
    cross_attention: bool = False
    """Each layer also attends to a context: memory, context, feed-forward."""
    context_dim: int | None = None
    """Width of the context; None: dim."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(segment_length=self.segment_length, memory_length=self.memory_length, detach_every=self.detach_every)
        require_positive(context_dim=self.context_dim)
        check_buckets(self.relative_buckets, self.relative_max_distance)
        require(self.context_dim is None or self.cross_attention, "context_dim is for cross_attention=True")
        require(
            self.positions != "rotary",
            "positions must be 'learned', 'fixed', 'axial' or None for feedback_transformer, got 'rotary': keys are made once, "
            "when a memory is written, and distances are told by relative_bias",
        )
        require(
            not self.reversible,
            "reversible must be False for feedback_transformer, got True: a memory merges every layer's output, "
            "which a reversible stack does not keep; use checkpointing=True to save activation memory",
        )
        require(
            self.detach_every is None or self.detach_every % self.segment_length == 0,
            f"detach_every must be a multiple of segment_length={self.segment_length}, got {self.detach_every}",
        )

    @property
    def spare(self) -> int:
        """P, places for the open segment."""
        return self.segment_length if self.segment_length > 1 else 0

    def build(self) -> FeedbackTransformer:
        """A freshly initialised :class:`FeedbackTransformer`."""
        from ..feedback_transformer.backbone import FeedbackTransformer

        return FeedbackTransformer(self)
