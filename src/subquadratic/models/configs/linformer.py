"""The configuration of a Linformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...core.choices import PROJECTIONS, SHARING
from ...core.errors import require, require_choice, require_positive
from ..config import BackboneConfig

if TYPE_CHECKING:
    from ..linformer import Linformer


@dataclass(frozen=True, kw_only=True)
class LinformerConfig(BackboneConfig):
    """Configuration of a :class:`Linformer`."""

    model_type: ClassVar[str] = "linformer"
    fixed_length: ClassVar[bool] = True

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
    token_shift: bool | int = False
    """Shift half of the channels before each layer: by one token, or by up to as many as a number says."""
    cross_attention: bool = False
    """Each layer also attends to slots of a context: self-attention, cross-attention, feed-forward."""
    context_dim: int | None = None
    """Width of the context; None: dim."""
    context_length: int | None = None
    """The most positions of the context; None: max_length."""
    positions: str | None = "learned"
    """As in every model, but not "rotary": a slot mixes positions, so there is no angle to rotate it by."""

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

    def build(self) -> Linformer:
        """A freshly initialised :class:`Linformer`."""
        from ..linformer import Linformer

        return Linformer(self)
