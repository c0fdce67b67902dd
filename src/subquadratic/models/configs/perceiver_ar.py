"""The configuration of a PerceiverAR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...core.errors import require_positive, require_probability
from ...core.scalars import is_whole
from ..config import BackboneConfig

if TYPE_CHECKING:
    from ..perceiver_ar.backbone import PerceiverAR


@dataclass(frozen=True, kw_only=True)
class PerceiverARConfig(BackboneConfig):
    """Configuration of a :class:`PerceiverAR`."""

    model_type: ClassVar[str] = "perceiver_ar"
    state_grows: ClassVar[bool] = True
    aligned_right: ClassVar[bool] = True
    causal_only: ClassVar[bool] = True

    latents: int = 256
    """How many of the last positions are latents; only they have outputs."""
    cross_depth: int = 1
    """Layers of cross-attention to the whole input, before the ``depth`` layers of self-attention."""
    prefix_dropout: float = 0.0
    """Fraction of each row's prefix that is left out in training."""
    refill: int | str = "exact"
    """Streaming beyond ``latents`` tokens: "exact" computes all latents anew for each token; an integer drops to
    ``latents - refill`` of them and refills, which costs one token's work in between."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(latents=self.latents, cross_depth=self.cross_depth)
        require_probability(prefix_dropout=self.prefix_dropout)
        stride = self.refill
        if stride != "exact" and (isinstance(stride, str) or not is_whole(stride) or not 1 <= stride < self.latents):
            raise ValueError(f"refill must be 'exact' or an integer of at least 1 and less than latents={self.latents}, got {stride!r}")

    def latents_at(self, tokens: int) -> int:
        """How many latents give the output of the last of ``tokens`` real tokens in a stream, l(t) of
        :meth:`PerceiverAR.extend`."""
        if tokens <= self.latents or isinstance(self.refill, str):
            return min(tokens, self.latents)
        return self.latents - self.refill + (tokens - self.latents - 1) % (self.refill + 1)

    def build(self) -> PerceiverAR:
        """A freshly initialised :class:`PerceiverAR`."""
        from ..perceiver_ar.backbone import PerceiverAR

        return PerceiverAR(self)
