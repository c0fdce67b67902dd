"""What FAVOR+ does between the maps of a layer: queries, keys and values of heads in, their mix out.

Axes: B batch, H heads, N length (queries), S length (keys), K head width, M features.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.choices import check_estimator, check_kernel
from ...core.numerics import exact_dtype, no_autocast
from ...core.scalars import plain_scalars
from ...layers.rotary.op import turn_both
from ...layers.streaming import Carry, Streaming
from .efficient import EfficientState, causal_efficient_attention, empty_efficient, read_efficient, summarise_efficient
from .features import default_features, orthogonal_gaussian, softmax_exponents
from .fixed import FixedFeatures
from .formula import causal_linear_attention, read_features, read_with_queries, summarise_features
from .op import causal_favor, read_favor, summarise_favor
from .sharp import causal_favor_attention, favor_attention, read_fixed, summarise_fixed
from .state import FeatureState, empty_epsilon, empty_features, with_sums

KERNEL_EPSILON = 1e-3  # added to generalised features, the paper's value (appendix A)
Kernel = str | Callable[[Tensor], Tensor]
Summary = FeatureState | EfficientState


class FavorHeads(Streaming):
    """Linear attention of heads of width K through M features; options as in :class:`~subquadratic.attention.FavorAttention`."""

    projection: Tensor

    @plain_scalars
    def __init__(
        self,
        width: int,
        *,
        heads: int = 1,
        features: int | None = None,
        kernel: Kernel = "softmax",
        feature_epsilon: float = 0.0,
        orthogonal_scaling: int = 0,
        estimator: str = "positive",
        center: bool = False,
        balance: str | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        check_kernel(kernel=kernel, features=features, feature_epsilon=feature_epsilon, orthogonal_scaling=orthogonal_scaling)
        sharp = check_estimator(
            estimator=estimator, center=center, balance=balance, kernel=kernel, feature_epsilon=feature_epsilon, scaling=orthogonal_scaling
        )
        self.width, self.kernel, self.feature_epsilon, self.orthogonal_scaling = width, kernel, feature_epsilon, orthogonal_scaling
        self.features = width if kernel == "efficient" else features or default_features(width)
        if kernel != "efficient":
            self.register_buffer("projection", orthogonal_gaussian(self.features, width, scaling=orthogonal_scaling, generator=generator))
        self.options: dict[str, Any] = dict(estimator=estimator, center=center, balance=balance)
        self.fixed = FixedFeatures(heads, self.projection, **self.options) if sharp else None

    def forward(
        self,
        queries: Tensor,
        keys: Tensor | None,
        values: Tensor | None,
        mask: Tensor | None = None,
        turns: Tensor | None = None,
        *,
        causal: bool,
        query_mask: Tensor | None = None,
        context: bool = False,
        carry: Carry | None = None,
    ) -> Tensor:
        """Queries (B, H, N, K) to keys and values (B, H, S, K): (B, H, N, K).

        Args:
            mask: (B, S) bool, True = real key.
            turns: rotate queries and keys first.
            causal: key i is seen by queries from i on.
            query_mask: (B, N) bool, the real queries, where attention is not causal: others are left out of statistics.
            context: keys and values are another sequence's, as those that ``summarise`` takes.
            carry: of the :class:`Summary` of the keys before; for attention that is not causal, of all keys, and then there are no others.
        """
        if not causal and carry is not None:
            carry.after = carry.before
            return self.read(queries, carry.before)
        assert keys is not None and values is not None
        if not causal and self.fixed is not None and not context:
            return favor_attention(queries, keys, values, self.projection, mask=mask, query_mask=query_mask, **self.options)
        if not causal:
            return self.read(queries, self.summarise(keys, values, mask))
        y, after = self._causal(queries, keys, values, None if carry is None else carry.before, mask, turns)
        if carry is not None:
            carry.after = after
        return y

    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Draw a new projection in place."""
        if self.kernel != "efficient":
            drawn = orthogonal_gaussian(self.features, self.width, scaling=self.orthogonal_scaling, generator=generator)
            self.projection.copy_(drawn)
            if self.fixed is not None:
                self.fixed.redraw_(self.projection)

    def fit_(
        self,
        queries: Tensor,
        keys: Tensor | None,
        values: Tensor | None = None,
        mask: Tensor | None = None,
        turns: Tensor | None = None,
        *,
        query_mask: Tensor | None = None,
        causal: bool = False,
        **_: Any,
    ) -> None:
        """Take the geometry of causal attention and of contexts from what ``forward`` would be given; see
        :func:`~subquadratic.attention.favor.fitting.fitting`."""
        if self.fixed is None or keys is None:
            return
        if turns is not None:
            queries, keys = turn_both(queries, keys, turns)
        self.fixed.fit_(queries, keys, self.projection, mask, mask if causal else query_mask)

    def summarise(self, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Summary:
        """All that queries can ask of keys and values (B, H, S, K): for bidirectional and cross-attention."""
        if self.fixed is not None:
            return summarise_fixed(keys, values, self.projection, self.fixed.value, mask)
        if self.kernel == "softmax" and not self.feature_epsilon:
            return summarise_favor(keys, values, self.projection, mask)
        dtype = exact_dtype(keys, values)
        keys, values = keys.to(dtype), values.to(dtype)
        with no_autocast(values):
            if self.kernel == "efficient":
                return summarise_efficient(keys, values, mask)
            if self.kernel != "softmax":
                return summarise_features(self._general_features(keys), values, mask, exponents=False)
            exponents, _ = softmax_exponents(keys, self.projection)
            of_keys = exponents if mask is None else exponents.masked_fill(~mask[:, None, :, None], -torch.inf)
            summary = summarise_features(exponents, values, mask, maximum=of_keys.detach().amax(dim=(-1, -2))[..., None])
            return with_sums(summary, values, mask)

    def read(self, queries: Tensor, summary: Summary) -> Tensor:
        """Queries (B, H, N, K) to a summary: (B, H, N, K)."""
        if self.fixed is not None:
            return read_fixed(queries, summary, self.projection, self.fixed.value)  # type: ignore[arg-type]
        if not isinstance(summary, EfficientState) and self.kernel == "softmax" and not self.feature_epsilon:
            return read_favor(queries, summary, self.projection)
        given, queries = queries.dtype, queries.to(exact_dtype(queries))
        with no_autocast(queries):
            if isinstance(summary, EfficientState):
                output = read_efficient(queries, summary)
            elif self.kernel == "softmax":
                output = read_features(softmax_exponents(queries, self.projection)[0], summary, feature_epsilon=self.feature_epsilon)
            else:
                output = read_with_queries(self._general_features(queries), summary)
        return output.to(given)

    def empty(self, batch: int, heads: int, *, device: torch.device, dtype: torch.dtype) -> Summary:
        """The summary of no tokens, for ``extend``."""
        if self.kernel == "efficient":
            return empty_efficient(batch, heads, self.width, self.width, device=device, dtype=dtype)
        empty = empty_epsilon if self.feature_epsilon else empty_features
        return empty(batch, heads, self.features, self.width, device=device, dtype=dtype)

    def extend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        summary: Summary | None,
        mask: Tensor | None = None,
        turns: Tensor | None = None,
    ) -> tuple[Tensor, Summary]:
        """Causal attention of the next N positions, (B, H, N, K) three times, and the summary after them; None: of a whole sequence.
        ``turns``: rotate queries and keys first."""
        return self._carried(queries, keys, values, mask, turns, state=summary, causal=True)

    def _causal(
        self, queries: Tensor, keys: Tensor, values: Tensor, summary: Summary | None, mask: Tensor | None, turns: Tensor | None
    ) -> tuple[Tensor, Summary]:
        before: FeatureState | None = summary  # type: ignore[assignment]
        if self.kernel == "softmax" and not self.feature_epsilon and self.fixed is None:
            return causal_favor(queries, keys, values, self.projection, before, mask=mask, turns=turns)
        if turns is not None:
            queries, keys = turn_both(queries, keys, turns)
        if self.fixed is not None:
            return causal_favor_attention(queries, keys, values, self.projection, self.fixed.value, before, mask=mask)
        if self.kernel == "efficient":
            return causal_efficient_attention(queries, keys, values, summary, mask=mask)  # type: ignore[arg-type]
        dtype = exact_dtype(queries, values)
        with no_autocast(values):
            queries, keys = queries.to(dtype), keys.to(dtype)
            if self.kernel != "softmax":
                return causal_favor(self._general_features(queries), self._general_features(keys), values, None, before, mask=mask)
            log_queries, _ = softmax_exponents(queries, self.projection)
            log_keys, _ = softmax_exponents(keys, self.projection)
            features = (log_queries - log_queries.detach().amax(dim=-1, keepdim=True)).exp() + self.feature_epsilon
            return causal_linear_attention(features, log_keys, values, before, mask=mask, feature_epsilon=self.feature_epsilon)

    def _general_features(self, x: Tensor) -> Tensor:
        """Generalised attention (section 2.2): f(W x) + epsilon."""
        function = F.relu if self.kernel == "relu" else self.kernel
        return function(x * self.width**-0.25 @ self.projection.to(x.dtype).T) + KERNEL_EPSILON  # type: ignore[operator]
