"""The configuration of a Performer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.choices import check_estimator, check_kernel, check_local
from ...core.errors import require, require_positive
from ...core.scalars import as_numbers
from ..config import BackboneConfig

if TYPE_CHECKING:
    from ..performer import Performer


@dataclass(frozen=True, kw_only=True)
class PerformerConfig(BackboneConfig):
    """Configuration of a :class:`Performer`."""

    model_type: ClassVar[str] = "performer"

    features: int | None = None
    """Random features M per head; None: floor(K ln K)."""
    kernel: str | Callable[..., Any] = "softmax"
    """"softmax" (FAVOR+), "relu", "efficient", or a callable (which cannot be saved)."""
    feature_epsilon: float = 0.0
    """Added to every softmax feature. The published code uses 1e-4; 0 leaves the estimate unbiased."""
    orthogonal_scaling: int = 0
    """Row norms of the projection: 0: those of Gaussian vectors; 1: sqrt(K)."""
    estimator: str = "positive"
    """Of the softmax kernel: "positive" (Performer), "optimal" (arXiv 2205.15317), "dense" (arXiv 2302.00787), which vary less where
    queries and keys are large."""
    center: bool = False
    """Subtract the means of queries and keys before the features; softmax stays what it is."""
    balance: str | None = None
    """Bring queries and keys to the same size before the features: each "channel", or by a "full" matrix and its inverse."""
    redraw_interval: int | None = 1000
    """Optimizer steps between redraws of the projections (the published value); None: never. Acted on by the training engine."""
    local_heads: int | tuple[int, ...] = 0
    """Heads that attend exactly within a window instead; one number, or one per layer."""
    local_window: int = 256
    """Window of the local heads."""
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
        check_estimator(
            estimator=self.estimator,
            center=self.center,
            balance=self.balance,
            kernel=self.kernel,
            feature_epsilon=self.feature_epsilon,
            scaling=self.orthogonal_scaling,
        )
        for local_heads in self.local_heads if isinstance(self.local_heads, tuple) else (self.local_heads,):
            check_local(heads=self.heads, local_heads=local_heads, local_window=self.local_window)
        require_positive(redraw_interval=self.redraw_interval, context_dim=self.context_dim)
        require(self.context_dim is None or self.cross_attention, "context_dim is for cross_attention=True")

    @property
    def local_heads_per_layer(self) -> tuple[int, ...]:
        """``local_heads``, one number per layer."""
        return self.local_heads if isinstance(self.local_heads, tuple) else (self.local_heads,) * self.depth

    def build(self) -> Performer:
        """A freshly initialised :class:`Performer`."""
        from ..performer import Performer

        return Performer(self)
