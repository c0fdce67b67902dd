"""FAVOR+ attention with the published stabiliser and epsilons, over heads that are already split.

The published softmax features of x, with w.x and |x|^2 of the scaled x, are exp(w.x - |x|^2 / 2 - max(w.x)) + 1e-4: the maximum is taken
before |x|^2 / 2 is subtracted, over the features of a query and over all keys together. Causal attention takes the running maximum instead,
since a maximum over all keys lets later keys change earlier outputs: position i gets what the published layer gives the last of the first
i + 1 positions.

Axes: B batch, H heads, N length (queries), S length (keys), K head width, M features.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...attention.favor.efficient import EfficientState, read_efficient, summarise_efficient
from ...attention.favor.features import default_features, orthogonal_gaussian, softmax_exponents
from ...attention.favor.formula import causal_linear_attention, read_with_queries, summarise_features
from ...attention.favor.state import FeatureState, empty_epsilon, empty_features, with_sums
from ...core.errors import NotCausalError, check_mask, require_choice, require_positive
from ...core.numerics import exact_dtype, no_autocast
from ...core.scalars import plain_scalars

FEATURE_EPSILON = 1e-4  # added to every softmax feature, queries' and keys', after the exponential
KERNEL_EPSILON = 1e-3  # added to every generalised feature
CAUSAL_EPSILON = 1e-6  # added to every running sum of key features


class FastAttention(nn.Module):
    """Linear attention of (B, H, N, K) queries to (B, H, S, K) keys and values.

    Args:
        dim_heads: K.
        nb_features: M; None takes K ln K.
        ortho_scaling: 0 or 1, see :func:`subquadratic.attention.favor.features.orthogonal_gaussian`.
        causal: position i sees keys up to i.
        generalized_attention: features are ``kernel_fn(w.x) + 1e-3`` instead of the softmax kernel's.
        kernel_fn: of the generalised features, element by element; None: ReLU.
        no_projection: efficient attention (softmax over a query's channels and over positions of the keys), without random features.

    Raises:
        ValueError: for values out of range.
    """

    projection_matrix: Tensor

    @plain_scalars
    def __init__(
        self,
        dim_heads: int,
        nb_features: int | None = None,
        ortho_scaling: int = 0,
        causal: bool = False,
        generalized_attention: bool = False,
        kernel_fn: Callable[[Tensor], Tensor] | None = None,
        no_projection: bool = False,
    ):
        super().__init__()
        require_positive(dim_heads=dim_heads, nb_features=nb_features)
        require_choice("ortho_scaling", ortho_scaling, (0, 1))
        self.dim_heads = dim_heads
        self.nb_features = default_features(dim_heads) if nb_features is None else nb_features
        self.ortho_scaling = ortho_scaling
        self.causal = causal
        self.generalized_attention = generalized_attention
        self.kernel_fn = nn.ReLU() if kernel_fn is None else kernel_fn
        self.no_projection = no_projection
        self.register_buffer("projection_matrix", orthogonal_gaussian(self.nb_features, dim_heads, scaling=ortho_scaling))

    @torch.no_grad()
    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Draw new random features, in place; ``generator`` is a CPU generator, None the global one."""
        drawn = orthogonal_gaussian(self.nb_features, self.dim_heads, scaling=self.ortho_scaling, generator=generator)
        self.projection_matrix.copy_(drawn)

    def redraw_projection_matrix(self, device: torch.device | str | None = None) -> None:
        """The published name of :meth:`redraw_`; the matrix stays where it is, whatever ``device`` says."""
        self.redraw_()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, H, N, K) queries, (B, H, S, K) keys and values -> (B, H, N, K).

        Args:
            mask: (B, S) bool, True = real key.

        Raises:
            ValueError: if causal and N differs from S.
        """
        if not self.causal:
            return self.read(q, self.summarise(k, v, mask))
        if q.shape[-2] != k.shape[-2]:
            raise ValueError(
                f"causal attention needs as many keys as queries, got {k.shape[-2]} keys for {q.shape[-2]} queries: "
                f"for a context of another length use causal=False"
            )
        return self.extend(q, k, v, self.init_state(q.shape[0], q.shape[1], v), mask=mask)[0]

    def summarise(self, k: Tensor, v: Tensor, mask: Tensor | None = None) -> FeatureState | EfficientState:
        """What bidirectional attention can know of (B, H, S, K) keys and values."""
        check_mask(mask, k.shape[0], k.shape[-2])
        dtype = exact_dtype(k, v)
        with no_autocast(k):
            k, v = k.to(dtype), v.to(dtype)
            if self.no_projection:
                return summarise_efficient(k, v, mask)
            if self.generalized_attention:
                return summarise_features(self._kernel(k), v, mask, exponents=False)
            exponents, projected = softmax_exponents(k, self._projection())
            if mask is not None:
                projected = projected.masked_fill(~mask[:, None, :, None], -torch.inf)
            summary = summarise_features(exponents, v, mask, maximum=projected.detach().amax(dim=(-1, -2))[..., None])
            return with_sums(summary, v, mask)

    def read(self, q: Tensor, summary: FeatureState | EfficientState) -> Tensor:
        """(B, H, N, K) queries -> (B, H, N, K) in their dtype."""
        with no_autocast(q):
            exact = q.to(exact_dtype(q))
            if isinstance(summary, EfficientState):
                output = read_efficient(exact, summary)
            elif self.generalized_attention:
                output = read_with_queries(self._kernel(exact), summary)
            else:
                output = read_with_queries(self._softmax_queries(exact), summary, feature_epsilon=FEATURE_EPSILON)
        return output.to(q.dtype)

    def init_state(self, batch_size: int, heads: int, like: Tensor) -> FeatureState:
        """Causal attention's summary before the first key, on the device of ``like``."""
        if not self.causal:
            raise NotCausalError("this attention")
        features = self.dim_heads if self.no_projection else self.nb_features
        sizes, dtype = (batch_size, heads, features, self.dim_heads), exact_dtype(like)
        if self.no_projection or self.generalized_attention:
            return empty_features(*sizes, device=like.device, dtype=dtype)
        # The published 1e-6 joins the sum of features that carry a factor 1 / sqrt(M). Relative to the running maximum that is a fraction
        # of one token of weight FEATURE_EPSILON and value zero, so the count of tokens starts there.
        empty = empty_epsilon(*sizes, device=like.device, dtype=dtype)
        return dataclasses.replace(empty, count=empty.count + CAUSAL_EPSILON * self.nb_features**0.5 / FEATURE_EPSILON)

    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: FeatureState, *, mask: Tensor | None = None) -> tuple[Tensor, FeatureState]:
        """Causal attention of the next N positions, all (B, H, N, K), and the summary after them."""
        check_mask(mask, k.shape[0], k.shape[-2])
        dtype = exact_dtype(q, k, v)
        with no_autocast(q):
            queries, keys = q.to(dtype), k.to(dtype)
            if self.no_projection:
                queries = queries.softmax(dim=-1)
                output, state = causal_linear_attention(queries, keys, v, state, mask=mask, denominator_epsilon=CAUSAL_EPSILON)
            elif self.generalized_attention:
                queries, keys = self._kernel(queries), self._kernel(keys)
                output, state = causal_linear_attention(
                    queries, keys, v, state, mask=mask, exponents=False, denominator_epsilon=CAUSAL_EPSILON
                )
            else:
                exponents, projected = softmax_exponents(keys, self._projection())
                output, state = causal_linear_attention(
                    self._softmax_queries(queries), exponents, v, state,
                    mask=mask, candidates=projected.amax(dim=-1), feature_epsilon=FEATURE_EPSILON,
                )  # fmt: skip
        return output.to(q.dtype), state

    def _softmax_queries(self, q: Tensor) -> Tensor:
        exponents, projected = softmax_exponents(q, self._projection())
        return (exponents - projected.detach().amax(dim=-1, keepdim=True)).exp() + FEATURE_EPSILON

    def _kernel(self, x: Tensor) -> Tensor:
        return self.kernel_fn(x * x.shape[-1] ** -0.25 @ self._projection().to(x.dtype).T) + KERNEL_EPSILON

    def _projection(self) -> Tensor:
        """A copy where a graph keeps it, so that a redraw between forward and backward does no harm."""
        return self.projection_matrix.clone() if torch.is_grad_enabled() else self.projection_matrix
