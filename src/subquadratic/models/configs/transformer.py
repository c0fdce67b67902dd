"""The configuration of a Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...core.errors import require, require_positive
from ..config import BackboneConfig

if TYPE_CHECKING:
    from ..transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(BackboneConfig):
    """Configuration of a :class:`Transformer`."""

    model_type: ClassVar[str] = "transformer"
    state_grows: ClassVar[bool] = True
    state_bound: ClassVar[str | None] = "window"

    window: int | None = None
    """Attend to the last ``window`` tokens only (that many less one to each side when bidirectional); None: to all."""
    token_shift: bool | int = False
    """Shift half of the channels before each layer: by one token, or by up to as many as a number says."""
    cross_attention: bool = False
    """Each layer also attends to a context: self-attention, cross-attention, feed-forward."""
    context_dim: int | None = None
    """Width of the context; None: dim."""
    qkv_bias: bool = False
    """Biases of the query, key and value maps."""
    out_bias: bool = True
    """Bias of the attention's output map."""
    qk_norm: bool = False
    """One learned length per head for queries and keys."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(window=self.window, context_dim=self.context_dim)
        require(self.context_dim is None or self.cross_attention, "context_dim is for cross_attention=True")

    def build(self) -> Transformer:
        """A freshly initialised :class:`Transformer`."""
        from ..transformer import Transformer

        return Transformer(self)
