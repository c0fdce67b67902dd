"""The configuration of a model of gated linear attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...core.choices import DECAYS, key_width
from ...core.errors import require, require_above_zero, require_choice, require_positive
from ..config import BackboneConfig

if TYPE_CHECKING:
    from ..gated_linear import GatedLinear


@dataclass(frozen=True, kw_only=True)
class GatedLinearConfig(BackboneConfig):
    """Configuration of a :class:`GatedLinear`."""

    model_type: ClassVar[str] = "gated_linear"
    causal_only: ClassVar[bool] = True

    positions: str | None = None
    """"rotary" (in the attention layers), "learned", "fixed", "axial" (added to the embedding by the heads), or None, as in the paper:
    decays tell near from far."""
    key_dim: int | None = None
    """Width K of a head's queries and keys; None: half of its values', as in the paper."""
    decay: str = "channel"
    """"channel" (GLA): how much is forgotten depends on the token, for each channel of a head; "head": for each head; "fixed" (RetNet):
    1 - 2^(-5-h) for head h."""
    decay_rank: int = 16
    """Width of the two maps that make the decays."""
    decay_temperature: float = 16.0
    """Decays are a sigmoid to the power of one over this: larger forgets more slowly."""
    output_gate: bool = True
    """Gate the attention's output by swish(W x)."""
    token_shift: bool | int = False
    """Shift half of the channels before each layer: by one token, or by up to as many as a number says."""
    qkv_bias: bool = False
    """Biases of the query, key and value maps."""
    out_bias: bool = False
    """Bias of the attention's output map."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("decay", self.decay, DECAYS)
        require_positive(key_dim=self.key_dim, decay_rank=self.decay_rank)
        require_above_zero(decay_temperature=self.decay_temperature)
        require(
            self.positions != "rotary" or self.key_width % 2 == 0,
            f"key_dim must be even for rotary positions, got {self.key_width}; choose an even key_dim or other positions",
        )

    @property
    def key_width(self) -> int:
        """K."""
        return key_width(self.head_width, self.key_dim)

    def build(self) -> GatedLinear:
        """A freshly initialised :class:`GatedLinear`."""
        from ..gated_linear import GatedLinear

        return GatedLinear(self)
