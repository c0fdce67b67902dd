"""The configuration of a Fastformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..config import BackboneConfig

if TYPE_CHECKING:
    from ..fastformer import Fastformer


@dataclass(frozen=True, kw_only=True)
class FastformerConfig(BackboneConfig):
    """Configuration of a :class:`Fastformer`."""

    model_type: ClassVar[str] = "fastformer"

    share_query_value: bool = True
    """Values are the queries, the authors' default."""
    tie_logit_vectors: bool = False
    """All layers share the vectors that give the attention logits."""
    token_shift: bool | int = False
    """Shift half of the channels before each layer: by one token, or by up to as many as a number says."""

    def build(self) -> Fastformer:
        """A freshly initialised :class:`Fastformer`."""
        from ..fastformer import Fastformer

        return Fastformer(self)
