"""Exact softmax attention: the baseline of every comparison. Full or sliding window, self or cross, with a key-value cache.

Axes: B batch, N length (queries), S length (keys), D width, H heads, K head width.
"""

from typing import Any

import torch
from torch import Tensor

from ...core.errors import NotCausalError, require, require_positive, require_probability
from ...core.padding import checked, count_on, pack, pack_left, unpack, zero_padding
from ...core.scalars import plain_scalars
from ...core.state import State, state
from ...core.tracing import may_look
from ...layers.linear.layer import Linear, maps_of
from ...layers.multi_head import QueryKeyNorm, head_width, merge_heads, position_turns, require_even, split_heads
from ...layers.rotary.op import turn
from ...layers.streaming import Carry, Streaming, default_device
from .cache import append
from .formula import bottom_right_causal
from .op import softmax_attention
from .window import WindowState, empty_window, extend_window_attention, window_attention

QUERIES_PER_MASK = 1024  # one mask of so many queries against the whole cache exists at a time


@state
class CacheState(State):
    """Keys and values of every token so far."""

    keys: Tensor  # (B, H, S, K)
    values: Tensor  # (B, H, S, K)
    mask: Tensor  # (B, S) bool, True = real token
    seen: Tensor  # (B,) int64, real tokens so far


@state
class ContextState(State):
    """Keys and values of a context, computed once."""

    keys: Tensor  # (B, H, S, K)
    values: Tensor  # (B, H, S, K)
    mask: Tensor  # (B, S) bool, True = real token


class SoftmaxAttention(Streaming):
    """Multi-head softmax attention (Vaswani et al., arXiv 1706.03762).

    Args:
        dim: D.
        heads: H.
        head_dim: K; None: dim / heads.
        causal: a position attends to itself and what came before.
        window: attend to the last ``window`` tokens only (each side when bidirectional); None: to all.
        rotary: rotary positions on queries and keys (not in cross-attention).
        dropout: of the attention weights.
        qkv_bias, out_bias: biases of the maps.
        qk_norm: give queries and keys one learned length per head.
        context_dim: width of a context, for cross-attention; None: D.

    Raises:
        ValueError: for values out of range or an odd head width with ``rotary``.

    Cost O(N S K) a head, or O(N W K) with a window W; memory O(N K) in forward and backward. State: 2 H K numbers a token, or 4 W H K with
    a window.
    """

    sliding = True  # a window moves with the position; WindowAttention may cut the sequence into blocks instead

    @plain_scalars
    def __init__(
        self,
        dim: int,
        *,
        heads: int = 8,
        head_dim: int | None = None,
        causal: bool = False,
        window: int | None = None,
        rotary: bool = False,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        out_bias: bool = True,
        qk_norm: bool = False,
        context_dim: int | None = None,
    ):
        super().__init__()
        width = head_width(dim, heads, head_dim)
        require_even(width, rotary)
        require_positive(window=window, context_dim=context_dim)
        require_probability(dropout=dropout)
        self.dim, self.heads, self.width, self.context_dim = dim, heads, width, context_dim or dim
        self.causal, self.window, self.rotary, self.dropout = causal, window, rotary, dropout
        self.query = Linear(dim, heads * width, bias=qkv_bias)
        self.key = Linear(self.context_dim, heads * width, bias=qkv_bias)
        self.value = Linear(self.context_dim, heads * width, bias=qkv_bias)
        self.output = Linear(heads * width, dim, bias=out_bias)
        self.query_norm = QueryKeyNorm(heads, width) if qk_norm else None
        self.key_norm = QueryKeyNorm(heads, width) if qk_norm else None

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
            context: (B, S, context_dim); only for a bidirectional layer.
            context_mask: (B, S) bool.
            turns: `rotation` of the positions (`layers/rotary`), where a model made it for all layers; None: made here.
            return_attention: also give the weights (B, H, N, S). Forms N x S numbers: for looking at short sequences.
            carry: the state of a stream, of which ``x`` is the next piece: see ``extend``.

        Returns:
            (B, N, D), zero at padded positions; with ``return_attention`` the pair (output, weights).

        Raises:
            ValueError: for wrong shapes, or a context given to a causal or windowed layer.
        """
        x = checked(x, mask, self.dim)
        if carry is not None:
            return self._finish(self._step(x, mask, turns, carry), mask)
        if context is not None:
            y, weights = self._attend_context(x, self._read_context(context, context_mask), return_attention)
        else:
            require(context_mask is None, "context_mask is given without a context")
            y, weights = self._attend(x, mask, turns, return_attention)
        y = self._finish(y, mask)
        return y if weights is None else (y, weights)

    def init_state(
        self,
        batch_size: int,
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> CacheState | WindowState | ContextState:
        """The state before the first token; with ``context``, that context's keys and values.

        Raises:
            NotCausalError: if the layer is bidirectional and no context is given.
        """
        if context is not None:
            return self._read_context(context, context_mask)
        if not self.causal:
            raise NotCausalError("this SoftmaxAttention")
        device, dtype = default_device(self, device, dtype)
        if self.window is not None:
            return empty_window(batch_size, self.heads, self.window, self.width, device=device, dtype=dtype)
        nothing = torch.zeros(batch_size, self.heads, 0, self.width, device=device, dtype=dtype)
        seen = torch.zeros(batch_size, dtype=torch.int64, device=device)
        return CacheState(nothing, nothing, torch.zeros(batch_size, 0, dtype=torch.bool, device=device), seen)

    def extend(
        self,
        x: Tensor,
        state: CacheState | WindowState | ContextState,
        *,
        mask: Tensor | None = None,
        turns: Tensor | None = None,
    ) -> tuple[Tensor, CacheState | WindowState | ContextState]:
        """The next piece of the sequence: (B, N, D) and the state before -> (B, N, D) and the state after."""
        y, after = self._carried(x, state=state, mask=mask, turns=turns)
        return y, after

    def _step(self, x: Tensor, mask: Tensor | None, turns: Tensor | None, carry: Carry) -> Tensor:
        """The mix of values (B, H, N, K), with the state after in ``carry``."""
        state = carry.before
        if isinstance(state, ContextState):
            carry.after = state
            return self._attend_context(x, state, False)[0]
        queries, keys, values = self._turned_maps(x, mask, state.seen, turns)
        if isinstance(state, WindowState):
            options: dict[str, Any] = {"sliding": self.sliding, "mask": mask, "dropout": self._dropping()}
            y, carry.after = extend_window_attention(queries, keys, values, state, **options)
        else:
            y, carry.after = self._extend_cache(queries, keys, values, state, mask)
        return y

    def _finish(self, y: Tensor, mask: Tensor | None) -> Tensor:
        return zero_padding(self.output(merge_heads(y)), mask)

    def _extend_cache(
        self, queries: Tensor, keys: Tensor, values: Tensor, state: CacheState, mask: Tensor | None
    ) -> tuple[Tensor, CacheState]:
        batch, _, length, _ = queries.shape
        past, dropout = state.keys.shape[2], self._dropping()
        keys, values = append(state.keys, keys), append(state.values, values)
        new = torch.ones(batch, length, dtype=torch.bool, device=queries.device) if mask is None else mask
        whole_mask = append(state.mask, new, dim=1)
        after = CacheState(keys, values, whole_mask, count_on(state.seen, mask, length))
        if mask is None and _has_no_padding(state):
            return softmax_attention(queries, keys, values, causal=True, dropout=dropout), after
        outputs = []
        stop = past
        for part in (queries,) if torch.compiler.is_compiling() else queries.split(QUERIES_PER_MASK, dim=2):
            stop += part.shape[2]  # nobody here looks further
            allowed = whole_mask[:, None, None, :stop]
            if part.shape[2] > 1:
                allowed = allowed & bottom_right_causal(part.shape[2], stop, queries.device)
            outputs.append(softmax_attention(part, keys[:, :, :stop], values[:, :, :stop], allowed=allowed, dropout=dropout))
        return torch.cat(outputs, dim=2) if len(outputs) > 1 else outputs[0], after

    def _attend(self, x: Tensor, mask: Tensor | None, turns: Tensor | None, return_attention: bool) -> tuple[Tensor, Tensor | None]:
        order = None
        if mask is not None and self.causal:  # with the padding at the end, causality alone hides it, and the fused kernel needs no mask
            order, mask = pack_left(mask)
            x, turns = pack(x, order), None
        queries, keys, values = self._turned_maps(x, None if self.causal else mask, None, turns)
        weights = None
        if return_attention:
            require(order is None, "return_attention of a causal layer takes no mask: pass one unpadded sequence at a time")
            everything = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(x.shape[0], queries.shape[1], -1, -1)
            weights = self._mix_values(queries, keys, everything, mask)
        y = self._mix_values(queries, keys, values, mask)
        if order is not None:
            y = split_heads(unpack(merge_heads(y), order), width=self.width)
        return y, weights

    def _mix_values(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        if self.window is not None:
            return window_attention(
                queries, keys, values, window=self.window, causal=self.causal, sliding=self.sliding, mask=mask, dropout=self._dropping()
            )
        allowed = None if mask is None or self.causal else mask[:, None, None]
        return softmax_attention(queries, keys, values, allowed=allowed, causal=self.causal, dropout=self._dropping())

    def _attend_context(self, x: Tensor, context: ContextState, return_attention: bool) -> tuple[Tensor, Tensor | None]:
        queries = split_heads(self.query(x), width=self.width)
        if self.query_norm is not None:
            queries = self.query_norm(queries)
        allowed = context.mask[:, None, None]
        weights = None
        if return_attention:
            everything = torch.eye(context.keys.shape[2], dtype=x.dtype, device=x.device).expand(x.shape[0], queries.shape[1], -1, -1)
            weights = softmax_attention(queries, context.keys, everything, allowed=allowed)
        return softmax_attention(queries, context.keys, context.values, allowed=allowed, dropout=self._dropping()), weights

    def _read_context(self, context: Tensor, context_mask: Tensor | None) -> ContextState:
        require(
            not self.causal and self.window is None,
            "a context needs causal=False and window=None: there is no order between the two sequences",
        )
        context = checked(context, context_mask, self.context_dim, name="context", mask_name="context_mask")
        keys, values = (split_heads(y, width=self.width) for y in maps_of(context, self.key, self.value))
        if self.key_norm is not None:
            keys = self.key_norm(keys)
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device) if context_mask is None else context_mask
        return ContextState(keys, values, mask)

    def _turned_maps(self, x: Tensor, mask: Tensor | None, seen: Tensor | None, turns: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = (split_heads(y, width=self.width) for y in maps_of(x, self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if self.rotary:
            turns = position_turns(x, mask, seen, self.width) if turns is None else turns
            queries, keys = turn(queries, turns), turn(keys, turns)
        return queries, keys, values

    def _dropping(self) -> float:
        return self.dropout if self.training else 0.0


def _has_no_padding(state: CacheState) -> bool:
    """Whether the cache is known to hold no padding. Nobody knows while compiling, and other devices would stop for the answer."""
    past = state.keys.shape[2]
    if past == 0:
        return True
    return state.seen.device.type == "cpu" and may_look(state.seen) and bool((state.seen == past).all())
