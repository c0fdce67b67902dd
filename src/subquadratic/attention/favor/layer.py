"""FAVOR+: softmax attention by random features at linear cost (Performer, arXiv 2009.14794), and its generalised kernels.

Axes: B batch, N length (queries), S length (keys), D width, H heads, K head width, M features, W window of the local heads.
"""

import torch
from torch import Tensor, nn

from ...core.choices import check_local
from ...core.errors import NotCausalError, require, require_positive, require_probability
from ...core.padding import checked, count_on, count_real, zero_padding
from ...core.scalars import plain_scalars
from ...core.state import State, state
from ...layers.linear.layer import Linear, maps_of
from ...layers.multi_head import QueryKeyNorm, head_width, merge_heads, position_turns, require_even, split_heads
from ...layers.rotary.op import turn_both
from ...layers.streaming import Carry, Streaming, advance, default_device, part_with
from ..softmax.op import softmax_attention
from ..softmax.window import WindowState, empty_window, extend_window_attention, window_attention
from .mixing import FavorHeads, Kernel, Summary


@state
class FavorState(State):
    """What a causal layer has seen, or the summary of a context. Its size does not depend on how long that was."""

    summary: Summary | None  # None without global heads
    window: WindowState | None  # None without local heads
    seen: Tensor  # (B,) int64, real tokens so far


class FavorAttention(Streaming):
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
        estimator: of the softmax kernel: "positive" (Performer), "optimal" (arXiv 2205.15317), "dense" (arXiv 2302.00787). The last two
            draw features wider than Gaussian ones, which vary less where queries and keys are large.
        center: subtract the mean of queries and of keys; softmax stays what it is.
        balance: scale each "channel" of queries, and of keys inversely, to the same size, or both by a "full" matrix and its inverse.
            Bidirectional, these three follow the sequence; causal and in cross-attention they are fixed, and fitted by
            :func:`~subquadratic.attention.favor.fitting.fitting`.
        rotary: rotary positions on queries and keys (not in cross-attention).
        local_heads: this many of the H heads attend exactly, within a window.
        local_window: W: a local head sees its block of W tokens and the one before (also the one after, when bidirectional).
        dropout: of the output, and of the weights in local heads.
        qkv_bias, out_bias: biases of the maps.
        qk_norm: give queries and keys one learned length per head. Random features fail once entries of q and k have standard deviation 1
            or more; this, or the ReLU kernel, is what helps.
        context_dim: width of a context, for cross-attention; None: D.
        generator: draws the projection; None: the global CPU generator.

    Raises:
        ValueError: for values out of range, an odd head width with ``rotary``.

    Cost O(N M K) a head. Streaming state: H (M K + M + 1) numbers, whatever the length; with ``feature_epsilon`` H (K + 1) more.
    """

    @plain_scalars
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
        estimator: str = "positive",
        center: bool = False,
        balance: str | None = None,
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
        check_local(heads=heads, local_heads=local_heads, local_window=local_window)
        require_even(width, rotary)
        require_positive(context_dim=context_dim)
        require_probability(dropout=dropout)
        self.dim, self.heads, self.width, self.context_dim = dim, heads, width, context_dim or dim
        self.causal, self.rotary, self.local_window = causal, rotary, local_window
        self.local_heads, self.global_heads = local_heads, heads - local_heads
        favor = FavorHeads(
            width,
            heads=max(self.global_heads, 1),
            features=features,
            kernel=kernel,
            feature_epsilon=feature_epsilon,
            orthogonal_scaling=orthogonal_scaling,
            estimator=estimator,
            center=center,
            balance=balance,
            generator=generator,
        )
        self.favor = favor if self.global_heads else None
        self.query = Linear(dim, heads * width, bias=qkv_bias)
        self.key = Linear(self.context_dim, heads * width, bias=qkv_bias)
        self.value = Linear(self.context_dim, heads * width, bias=qkv_bias)
        self.output = Linear(heads * width, dim, bias=out_bias)
        self.query_norm = QueryKeyNorm(heads, width) if qk_norm else None
        self.key_norm = QueryKeyNorm(heads, width) if qk_norm else None
        self.dropout = nn.Dropout(dropout)

    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Draw a new projection in place (section 4.2 of the paper: redrawing helps training). Never done by forward.

        Args:
            generator: a CPU generator; the same seed gives the same projection on every rank.
        """
        if self.favor is not None:
            part_with(self.favor, "redraw_").redraw_(generator)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        turns: Tensor | None = None,
        return_attention: bool = False,
        carry: Carry | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of every position to the sequence itself, or to ``context``.

        Args:
            x: (B, N, D).
            mask: (B, N) bool, True = real token.
            context: (B, S, context_dim); only for a bidirectional layer without local heads.
            context_mask: (B, S) bool.
            turns: `rotation` of the positions (`layers/rotary`), where a model made it for all layers; None: made here.
            return_attention: also give the weights (B, H, N, S) that the features imply. Forms N x S numbers: for looking at short
                sequences.
            carry: the state of a stream, of which ``x`` is the next piece: see ``extend``.

        Returns:
            (B, N, D), zero at padded positions; with ``return_attention`` the pair (output, weights).

        Raises:
            ValueError: for wrong shapes, or a context given to a causal layer or to local heads.
        """
        x = checked(x, mask, self.dim)
        if carry is not None:
            return self._finish(self._step(x, mask, turns, carry), mask)
        if context is None:
            require(context_mask is None, "context_mask is given without a context")
            queries, keys, values = self._maps(x)
            turns, key_mask = self._turns(x, mask, None, turns), mask
            if turns is not None:
                queries, keys = turn_both(queries, keys, turns)
        else:
            queries, (keys, values) = self._query(x), self._context_maps(context, context_mask)
            key_mask = context_mask
        masks = key_mask, mask
        y = self._attend(queries, keys, values, *masks, context=context is not None)
        output = self._finish(y, mask)
        if not return_attention:
            return output
        everything = torch.eye(keys.shape[2], dtype=y.dtype, device=y.device).expand(x.shape[0], queries.shape[1], -1, -1)
        return output, self._attend(
            queries, keys, everything, *masks, context=context is not None
        )  # weights are what the identity is mixed into

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
            return FavorState(part_with(self._global(), "summarise").summarise(keys, values, context_mask), None, seen)
        if not self.causal:
            raise NotCausalError("this FavorAttention")
        device, dtype = default_device(self, device, dtype)
        exact = torch.promote_types(dtype, torch.float32)
        summary = None if self.favor is None else self._empty(batch_size, device, exact)
        window = (
            empty_window(batch_size, self.local_heads, self.local_window, self.width, device=device, dtype=dtype)
            if self.local_heads
            else None
        )
        return FavorState(summary, window, torch.zeros(batch_size, dtype=torch.int64, device=device))

    def extend(self, x: Tensor, state: FavorState, *, mask: Tensor | None = None, turns: Tensor | None = None) -> tuple[Tensor, FavorState]:
        """The next piece of the sequence: (B, N, D) and the state before -> (B, N, D) and the state after. Cost does not depend on what
        came before."""
        return self._carried(x, state=state, mask=mask, turns=turns)

    def _step(self, x: Tensor, mask: Tensor | None, turns: Tensor | None, carry: Carry) -> Tensor:
        """The mix of values (B, H, N, K), with the state after in ``carry``."""
        state = carry.before
        if not self.causal:
            carry.after = state
            return self._read_context(self._query(x), state)
        turns = self._turns(x, mask, state.seen, turns)
        y, summary, window = self._attend_causal(*self._maps(x), mask, state.summary, state.window, turns)
        carry.after = FavorState(summary, window, count_on(state.seen, mask, x.shape[1]))
        return y

    @torch.no_grad()
    def approximation_error(self, queries: Tensor, keys: Tensor, values: Tensor) -> float:
        """How far the estimate is from exact softmax attention: RMS(estimate - exact) / RMS(exact), over all given heads.

        Args:
            queries, keys, values: (B, H, N, K), as they enter the feature map.

        Below 0.1 the estimate is good; near 1 and above it carries nothing of the softmax (entries of q and k with standard deviation >= 1
        do that).
        """
        exact = softmax_attention(queries, keys, values, causal=self.causal)
        estimate = self._global()(queries, keys, values, causal=self.causal)
        return float((estimate - exact).square().mean().sqrt() / exact.square().mean().sqrt().clamp_min(1e-30))

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, query_mask: Tensor | None, *, context: bool
    ) -> Tensor:
        """(B, H, N, K), (B, H, S, K) twice -> (B, H, N, K): global heads first, then local ones."""
        if self.causal:
            return self._attend_causal(queries, keys, values, mask, None, None)[0]
        if not self.local_heads:
            return self._global()(queries, keys, values, mask, causal=False, query_mask=query_mask, context=context)
        outputs = []
        (q, local_q), (k, local_k), (v, local_v) = (
            tensor.split([self.global_heads, self.local_heads], dim=1) for tensor in (queries, keys, values)
        )
        if self.favor is not None:
            outputs.append(self.favor(q, k, v, mask, causal=False, query_mask=query_mask))
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
        summary: Summary | None,
        window: WindowState | None,
        turns: Tensor | None = None,
    ) -> tuple[Tensor, Summary | None, WindowState | None]:
        """``turns``: rotate queries and keys first."""
        if not self.local_heads:
            return *advance(self._global(), queries, keys, values, mask, turns, state=summary, causal=True), window
        if turns is not None:
            queries, keys = turn_both(queries, keys, turns)
        outputs = []
        (q, local_q), (k, local_k), (v, local_v) = (
            tensor.split([self.global_heads, self.local_heads], dim=1) for tensor in (queries, keys, values)
        )
        if self.favor is not None:
            y, summary = advance(self.favor, q, k, v, mask, state=summary, causal=True)
            outputs.append(y)
        if self.local_heads and window is None:
            outputs.append(
                window_attention(local_q, local_k, local_v, window=self.local_window, causal=True, mask=mask, dropout=self._dropping())
            )
        elif self.local_heads and window is not None:
            y, window = extend_window_attention(local_q, local_k, local_v, window, mask=mask, dropout=self._dropping())
            outputs.append(y)
        return torch.cat(outputs, dim=1), summary, window

    def _read_context(self, queries: Tensor, state: FavorState) -> Tensor:
        if state.summary is None:
            raise ValueError("state holds no summary of a context: make it with init_state(batch_size, context=...)")
        return advance(self._global(), queries, None, None, state=state.summary, causal=False)[0]

    def _empty(self, batch: int, device: torch.device, dtype: torch.dtype) -> Summary:
        return part_with(self._global(), "empty").empty(batch, self.global_heads, device=device, dtype=dtype)

    def _global(self) -> FavorHeads:
        if self.favor is None:
            raise ValueError(f"local_heads={self.local_heads} of heads={self.heads} leave none with random features")
        return self.favor

    def _turns(self, x: Tensor, mask: Tensor | None, seen: Tensor | None, turns: Tensor | None) -> Tensor | None:
        if turns is None and self.rotary:
            return position_turns(x, mask, seen, self.width)
        return turns if self.rotary else None

    def _maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = (split_heads(y, width=self.width) for y in maps_of(x, self.query, self.key, self.value))
        queries = queries if self.query_norm is None else self.query_norm(queries)
        return queries, keys if self.key_norm is None else self.key_norm(keys), values

    def _query(self, x: Tensor) -> Tensor:
        queries = split_heads(self.query(x), width=self.width)
        return queries if self.query_norm is None else self.query_norm(queries)

    def _context_maps(self, context: Tensor, context_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        require(not self.causal, "a context needs causal=False: there is no order between the two sequences")
        require(not self.local_heads, f"a context has no window: cross-attention needs local_heads=0, got {self.local_heads}")
        context = checked(context, context_mask, self.context_dim, name="context", mask_name="context_mask")
        keys, values = (split_heads(y, width=self.width) for y in maps_of(context, self.key, self.value))
        return keys if self.key_norm is None else self.key_norm(keys), values

    def _finish(self, y: Tensor, mask: Tensor | None) -> Tensor:
        return zero_padding(self.dropout(self.output(merge_heads(y))), mask)

    def _dropping(self) -> float:
        return part_with(self.dropout, "p").p if self.dropout.training else 0.0
