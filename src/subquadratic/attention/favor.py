"""FAVOR+: softmax attention by random features at linear cost (Performer, arXiv 2009.14794), and its generalised kernels.

Axes: B batch, N length (queries), S length (keys), D width, H heads, K head width, M features, W window of the local heads.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.multi_head import QueryKeyNorm, head_width, merge_heads, require_even, rotate, split_heads
from ..ops.efficient_attention import EfficientState, causal_efficient_attention, empty_efficient, read_efficient, summarise_efficient
from ..ops.errors import NotCausalError, check_mask, check_sequence, require, require_choice, require_positive, require_probability
from ..ops.linear_attention import (
    FeatureState,
    causal_linear_attention,
    empty_features,
    read_features,
    read_with_queries,
    summarise_features,
)
from ..ops.padding import count_real, token_positions, zero_padding
from ..ops.precision import exact_dtype, no_autocast
from ..ops.random_features import default_features, orthogonal_gaussian, softmax_exponents
from ..ops.softmax_attention import softmax_attention
from ..ops.state import State, state
from ..ops.window_attention import WindowState, empty_window, extend_window_attention, window_attention

KERNELS = ("softmax", "relu", "efficient")
KERNEL_EPSILON = 1e-3  # added to generalised features, the paper's value (appendix A)
Kernel = str | Callable[[Tensor], Tensor]


@state
class FavorState(State):
    """What a causal layer has seen, or the summary of a context. Its size does not depend on how long that was."""

    summary: FeatureState | EfficientState | None  # None without global heads
    window: WindowState | None  # None without local heads
    seen: Tensor  # (B,) int64, real tokens so far


class FavorAttention(nn.Module):
    """Multi-head attention whose weights are estimated by positive orthogonal random features.

    Args:
        dim: D.
        heads: H.
        head_dim: K; None: dim / heads.
        causal: a position attends to itself and what came before.
        features: M; None: floor(K ln K), as the paper suggests.
        kernel: "softmax" (FAVOR+), "relu", any callable from projections to features >= 0 (generalised attention), or "efficient" (no
            projection).
        feature_epsilon: added to every softmax feature, relative to its stabiliser. 0 is unbiased; the published code has 1e-4.
        orthogonal_scaling: 0: row norms as Gaussian vectors have; 1: sqrt(K).
        rotary: rotary positions on queries and keys (not in cross-attention).
        local_heads: so many of the H heads attend exactly, to a window instead.
        local_window: W: a local head sees its block of W tokens and the one before (also the one after, when bidirectional).
        dropout: of the output, and of the weights in local heads.
        qkv_bias, out_bias: biases of the maps.
        qk_norm: give queries and keys one learned length per head. Random features fail once entries of q and k have standard deviation 1
            or more; this, or the ReLU kernel, is what helps.
        context_dim: width of a context, for cross-attention; None: D.
        generator: draws the projection; None: the global CPU generator.

    Raises:
        ValueError: for values out of range, an odd head width with ``rotary``.

    Cost O(N M K) a head. Streaming state: H (M K + M + K + 2) numbers, whatever the length.
    """

    projection: Tensor

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 8,
        head_dim: int | None = None,
        causal: bool = False,
        features: int | None = None,
        kernel: Kernel = "softmax",
        feature_epsilon: float = 0.0,
        orthogonal_scaling: int = 0,
        rotary: bool = False,
        local_heads: int = 0,
        local_window: int = 256,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        out_bias: bool = True,
        qk_norm: bool = False,
        context_dim: int | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        width = head_width(dim, heads, head_dim)
        check_favor_options(
            kernel=kernel, features=features, feature_epsilon=feature_epsilon, orthogonal_scaling=orthogonal_scaling,
            heads=heads, local_heads=local_heads, local_window=local_window,
        )  # fmt: skip
        require_even(width, rotary)
        require_positive(context_dim=context_dim)
        require_probability(dropout=dropout)
        self.dim, self.heads, self.width, self.context_dim = dim, heads, width, context_dim or dim
        self.causal, self.rotary, self.kernel, self.feature_epsilon = causal, rotary, kernel, feature_epsilon
        self.orthogonal_scaling, self.local_window = orthogonal_scaling, local_window
        self.local_heads, self.global_heads = local_heads, heads - local_heads
        self.features = width if kernel == "efficient" else features or default_features(width)
        self.query = nn.Linear(dim, heads * width, bias=qkv_bias)
        self.key = nn.Linear(self.context_dim, heads * width, bias=qkv_bias)
        self.value = nn.Linear(self.context_dim, heads * width, bias=qkv_bias)
        self.output = nn.Linear(heads * width, dim, bias=out_bias)
        self.query_norm = QueryKeyNorm(heads, width) if qk_norm else None
        self.key_norm = QueryKeyNorm(heads, width) if qk_norm else None
        self.dropout = nn.Dropout(dropout)
        if kernel != "efficient" and self.global_heads:
            self.register_buffer("projection", orthogonal_gaussian(self.features, width, scaling=orthogonal_scaling, generator=generator))

    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Draw a new projection in place (section 4.2 of the paper: redrawing helps training). Never done by forward.

        Args:
            generator: a CPU generator; the same seed gives the same projection on every rank.
        """
        if "projection" in self._buffers:
            drawn = orthogonal_gaussian(self.features, self.width, scaling=self.orthogonal_scaling, generator=generator)
            self.projection.copy_(drawn)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        return_attention: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of every position to the sequence itself, or to ``context``.

        Args:
            x: (B, N, D).
            mask: (B, N) bool, True = real token.
            context: (B, S, context_dim); only for a bidirectional layer without local heads.
            context_mask: (B, S) bool.
            return_attention: also give the weights (B, H, N, S) that the features imply. Forms N x S numbers: for looking at short
                sequences.

        Returns:
            (B, N, D), zero at padded positions; with ``return_attention`` the pair (output, weights).

        Raises:
            ValueError: for wrong shapes, or a context given to a causal layer or to local heads.
        """
        check_sequence(x, self.dim)
        check_mask(mask, x.shape[0], x.shape[1])
        x = zero_padding(x, mask)
        if context is None:
            require(context_mask is None, "context_mask is given without a context")
            queries, keys, values = self._maps(x, token_positions(mask, x.shape[1], device=x.device))
            key_mask = mask
        else:
            queries, (keys, values) = self._query(x), self._context_maps(context, context_mask)
            key_mask = context_mask
        y = self._attend(queries, keys, values, key_mask)
        output = self._finish(y, mask)
        if not return_attention:
            return output
        everything = torch.eye(keys.shape[2], dtype=y.dtype, device=y.device).expand(x.shape[0], self.heads, -1, -1)
        return output, self._attend(queries, keys, everything, key_mask)  # weights are what the identity is mixed into

    def init_state(
        self,
        batch_size: int,
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> FavorState:
        """The state before the first token; with ``context``, that context's summary.

        Raises:
            NotCausalError: if the layer is bidirectional and no context is given.
        """
        if context is not None:
            keys, values = self._context_maps(context, context_mask)
            seen = count_real(context_mask, context.shape[0], context.shape[1], context.device)
            return FavorState(self._summarise(keys, values, context_mask), None, seen)
        if not self.causal:
            raise NotCausalError("this FavorAttention")
        device, dtype = device or self.output.weight.device, dtype or self.output.weight.dtype
        device, exact = torch.device(device), torch.promote_types(dtype, torch.float32)
        summary: FeatureState | EfficientState | None = None
        if self.global_heads and self.kernel == "efficient":
            summary = empty_efficient(batch_size, self.global_heads, self.width, self.width, device=device, dtype=exact)
        elif self.global_heads:
            summary = empty_features(batch_size, self.global_heads, self.features, self.width, device=device, dtype=exact)
        window = (
            empty_window(batch_size, self.local_heads, self.local_window, self.width, device=device, dtype=dtype)
            if self.local_heads
            else None
        )
        return FavorState(summary, window, torch.zeros(batch_size, dtype=torch.int64, device=device))

    def extend(self, x: Tensor, state: FavorState, *, mask: Tensor | None = None) -> tuple[Tensor, FavorState]:
        """The next piece of the sequence: (B, N, D) and the state before -> (B, N, D) and the state after. Cost does not depend on what
        came before."""
        check_sequence(x, self.dim)
        check_mask(mask, x.shape[0], x.shape[1])
        x = zero_padding(x, mask)
        if not self.causal:
            return self._finish(self._read(self._query(x), state.summary), mask), state
        queries, keys, values = self._maps(x, token_positions(mask, x.shape[1], state.seen))
        y, summary, window = self._attend_causal(queries, keys, values, mask, state.summary, state.window)
        return self._finish(y, mask), FavorState(summary, window, state.seen + count_real(mask, x.shape[0], x.shape[1], x.device))

    @torch.no_grad()
    def approximation_error(self, queries: Tensor, keys: Tensor, values: Tensor) -> float:
        """How far the estimate is from exact softmax attention: RMS(estimate - exact) / RMS(exact), over all given heads.

        Args:
            queries, keys, values: (B, H, N, K), as they enter the feature map.

        Below 0.1 the estimate is good; near 1 and above it carries nothing of the softmax (entries of q and k with standard deviation >= 1
        do that).
        """
        exact = softmax_attention(queries, keys, values, causal=self.causal)
        if self.causal:
            estimate, _ = self._causal_heads(queries, keys, values, None, None)
        else:
            estimate = self._read(queries, self._summarise(keys, values, None))
        return float((estimate - exact).square().mean().sqrt() / exact.square().mean().sqrt().clamp_min(1e-30))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, N, K), (B, H, S, K) twice -> (B, H, N, K): global heads first, then local ones."""
        if self.causal:
            return self._attend_causal(queries, keys, values, mask, None, None)[0]
        outputs = []
        (q, local_q), (k, local_k), (v, local_v) = (
            tensor.split([self.global_heads, self.local_heads], dim=1) for tensor in (queries, keys, values)
        )
        if self.global_heads:
            outputs.append(self._read(q, self._summarise(k, v, mask)))
        if self.local_heads:
            outputs.append(
                window_attention(local_q, local_k, local_v, window=self.local_window, causal=False, mask=mask, dropout=self._dropping())
            )
        return torch.cat(outputs, dim=1)

    def _attend_causal(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        summary: FeatureState | EfficientState | None,
        window: WindowState | None,
    ) -> tuple[Tensor, FeatureState | EfficientState | None, WindowState | None]:
        outputs = []
        (q, local_q), (k, local_k), (v, local_v) = (
            tensor.split([self.global_heads, self.local_heads], dim=1) for tensor in (queries, keys, values)
        )
        if self.global_heads:
            y, summary = self._causal_heads(q, k, v, mask, summary)
            outputs.append(y)
        if self.local_heads and window is None:
            outputs.append(
                window_attention(local_q, local_k, local_v, window=self.local_window, causal=True, mask=mask, dropout=self._dropping())
            )
        elif self.local_heads and window is not None:
            y, window = extend_window_attention(local_q, local_k, local_v, window, mask=mask, dropout=self._dropping())
            outputs.append(y)
        return torch.cat(outputs, dim=1), summary, window

    def _causal_heads(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, summary: FeatureState | EfficientState | None
    ) -> tuple[Tensor, FeatureState | EfficientState]:
        if self.kernel == "efficient":
            return causal_efficient_attention(queries, keys, values, summary, mask=mask)  # type: ignore[arg-type]
        dtype = exact_dtype(queries, values)
        with no_autocast(values):
            if self.kernel == "softmax":
                log_queries, _ = softmax_exponents(queries.to(dtype), self.projection)
                keys, _ = softmax_exponents(keys.to(dtype), self.projection)
                features = (log_queries - log_queries.detach().amax(dim=-1, keepdim=True)).exp() + self.feature_epsilon
                return causal_linear_attention(features, keys, values, summary, mask=mask, feature_epsilon=self.feature_epsilon)  # type: ignore[arg-type]
            features, keys = self._general_features(queries.to(dtype)), self._general_features(keys.to(dtype))
            return causal_linear_attention(features, keys, values, summary, mask=mask, exponents=False)  # type: ignore[arg-type]

    def _summarise(self, keys: Tensor, values: Tensor, mask: Tensor | None) -> FeatureState | EfficientState:
        dtype = exact_dtype(keys, values)
        keys, values = keys.to(dtype), values.to(dtype)
        with no_autocast(values):
            if self.kernel == "efficient":
                return summarise_efficient(keys, values, mask)
            if self.kernel != "softmax":
                return summarise_features(self._general_features(keys), values, mask, exponents=False)
            exponents, _ = softmax_exponents(keys, self.projection)
            if not self.feature_epsilon:
                return summarise_features(exponents, values, mask)
            real = exponents if mask is None else exponents.masked_fill(~mask[:, None, :, None], -torch.inf)
            return summarise_features(exponents, values, mask, maximum=real.detach().amax(dim=(-1, -2))[..., None])

    def _read(self, queries: Tensor, summary: FeatureState | EfficientState | None) -> Tensor:
        given, queries = queries.dtype, queries.to(exact_dtype(queries))
        with no_autocast(queries):
            if isinstance(summary, EfficientState):
                output = read_efficient(queries, summary)
            elif self.kernel == "softmax":
                output = read_features(softmax_exponents(queries, self.projection)[0], summary, feature_epsilon=self.feature_epsilon)  # type: ignore[arg-type]
            else:
                output = read_with_queries(self._general_features(queries), summary)  # type: ignore[arg-type]
        return output.to(given)

    def _general_features(self, x: Tensor) -> Tensor:
        """Generalised attention (section 2.2): f(W x) + epsilon."""
        function = F.relu if self.kernel == "relu" else self.kernel
        return function(x * self.width**-0.25 @ self.projection.to(x.dtype).T) + KERNEL_EPSILON  # type: ignore[operator]

    def _maps(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = self._query(x), split_heads(self.key(x), self.heads), split_heads(self.value(x), self.heads)
        if self.key_norm is not None:
            keys = self.key_norm(keys)
        if self.rotary:
            queries, keys = rotate(queries, positions), rotate(keys, positions)
        return queries, keys, values

    def _query(self, x: Tensor) -> Tensor:
        queries = split_heads(self.query(x), self.heads)
        return queries if self.query_norm is None else self.query_norm(queries)

    def _context_maps(self, context: Tensor, context_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        require(not self.causal, "a context needs causal=False: there is no order between the two sequences")
        require(not self.local_heads, f"a context has no window: cross-attention needs local_heads=0, got {self.local_heads}")
        check_sequence(context, self.context_dim, name="context")
        check_mask(context_mask, context.shape[0], context.shape[1], name="context_mask")
        context = zero_padding(context, context_mask)
        keys, values = split_heads(self.key(context), self.heads), split_heads(self.value(context), self.heads)
        return keys if self.key_norm is None else self.key_norm(keys), values

    def _finish(self, y: Tensor, mask: Tensor | None) -> Tensor:
        return zero_padding(self.dropout(self.output(merge_heads(y))), mask)

    def _dropping(self) -> float:
        return self.dropout.p if self.training else 0.0


def check_favor_options(
    *,
    kernel: Kernel,
    features: int | None,
    feature_epsilon: float,
    orthogonal_scaling: int,
    heads: int,
    local_heads: int,
    local_window: int,
) -> None:
    """Ranges of what a layer and a model's configuration share.

    Raises:
        ValueError: naming the first that is out of range.
    """
    if not callable(kernel):
        require_choice("kernel", kernel, KERNELS)
    require_positive(features=features, local_window=local_window)
    require(
        kernel != "efficient" or features is None,
        f"features must be None with kernel='efficient', which has no projection, got {features!r}",
    )
    require(feature_epsilon >= 0, f"feature_epsilon must be at least 0, got {feature_epsilon!r}")
    require(not feature_epsilon or kernel == "softmax", f"feature_epsilon is for kernel='softmax', got kernel={kernel!r}")
    require_choice("orthogonal_scaling", orthogonal_scaling, (0, 1))
    if isinstance(local_heads, bool) or not isinstance(local_heads, int) or not 0 <= local_heads <= heads:
        raise ValueError(f"local_heads must be an integer from 0 to heads={heads}, got {local_heads!r}")
