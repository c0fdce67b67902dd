"""Linformer: attention to R slots that the sequence is summed into (arXiv 2006.04768), bidirectional and causal.

E^T (X W) = (E^T X) W, so the bidirectional form sums the sequence first and maps R slots instead of N tokens. The causal form (ours) lets
a position read the slots as they were after its own token: ``op.py``.

Axes: B batch, N length (queries), S length (keys), D width, H heads, K head width, R slots.
"""

import torch
from torch import Tensor

from ...core.choices import SHARING
from ...core.errors import NotCausalError, require, require_choice, require_positive, require_probability
from ...core.numerics import exact_dtype, no_autocast
from ...core.padding import check_positions, checked, count_on, count_real, token_positions, zero_padding
from ...core.scalars import plain_scalars
from ...core.state import State, state
from ...layers.linear.layer import Linear, maps_of
from ...layers.linear.op import slot_sums
from ...layers.multi_head import head_width, merge_heads, split_heads
from ...layers.streaming import Carry, Streaming, default_device, part_with
from ...layers.untouched import is_untouched
from ..softmax.op import softmax_attention
from .op import SlotState, causal_slot_attention, empty_slots
from .projection import SlotProjection


@state
class LowRankState(State):
    """The slots of a causal layer, or of a context. Its size does not depend on how long that was."""

    slots: SlotState
    filled: Tensor | None  # (B or 1, 1, 1, R) bool, which slots of a context hold anything; None: all
    seen: Tensor  # (B,) int64, real tokens so far


class LowRankAttention(Streaming):
    """Multi-head Linformer attention.

    Args:
        dim: D.
        heads: H.
        head_dim: K; None: dim / heads.
        max_length: the most positions E and F have rows for; may be None with "pool" and "conv" in a bidirectional layer.
        slots: R (the paper's k).
        causal: a position attends to itself and what came before.
        share: "none": E and F of its own. "kv": F = E. "layer": E = F come from outside (``key_weights`` of each call), for all layers.
        one_kv_head: one head of keys and values for all queries.
        projection: "learned", "pool" or "conv" (``projection.py``).
        dropout: of the attention weights.
        out_bias: bias of the output map. (Keys and values have none: a bias would not commute with E.)
        context_dim: width of a context, for cross-attention; None: D.

    Raises:
        ValueError: for values out of range.

    Cost O(N R K) a head. Streaming state: 2 H R K numbers, whatever the length.
    """

    @plain_scalars
    def __init__(
        self,
        dim: int,
        *,
        heads: int = 8,
        head_dim: int | None = None,
        max_length: int | None,
        slots: int = 256,
        causal: bool = False,
        share: str = "none",
        one_kv_head: bool = False,
        projection: str = "learned",
        dropout: float = 0.0,
        out_bias: bool = True,
        context_dim: int | None = None,
    ):
        super().__init__()
        width = head_width(dim, heads, head_dim)
        require_choice("share", share, SHARING)
        require_positive(slots=slots, max_length=max_length, context_dim=context_dim)
        require_probability(dropout=dropout)
        if causal and max_length is None:
            raise ValueError(
                "a causal LowRankAttention needs max_length: its slots may not depend on how long the sequence will be, got None"
            )
        self.dim, self.heads, self.width, self.context_dim = dim, heads, width, context_dim or dim
        self.causal, self.max_length, self.slots, self.dropout = causal, max_length, slots, dropout
        self.kv_heads = 1 if one_kv_head else heads
        self.query = Linear(dim, heads * width, bias=False)
        self.key = Linear(self.context_dim, self.kv_heads * width, bias=False)
        self.value = Linear(self.context_dim, self.kv_heads * width, bias=False)
        self.output = Linear(heads * width, dim, bias=out_bias)
        self.projection = None if share == "layer" else SlotProjection(slots, max_length=max_length, kind=projection, shared=share == "kv")

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        key_weights: Tensor | None = None,
        value_weights: Tensor | None = None,
        return_attention: bool = False,
        carry: Carry | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of every position to the slots of the sequence itself, or of ``context``.

        Args:
            x: (B, N, D).
            mask: (B, N) bool, True = real token. E's rows belong to positions among the real tokens.
            context: (B, S, context_dim); only for a bidirectional layer.
            context_mask: (B, S) bool.
            key_weights, value_weights: E and F at each position of what is attended to, (S, R) or (B, S, R); with ``share="layer"`` only.
            return_attention: also give the implied weights of tokens (B, H, N, S), which may be negative. For looking at short sequences.
            carry: the state of a stream, of which ``x`` is the next piece: see ``extend``.

        Returns:
            (B, N, D), zero at padded positions; with ``return_attention`` the pair (output, weights).

        Raises:
            ValueError: for wrong shapes, a sequence over ``max_length``, or a context given to a causal layer.
        """
        x = checked(x, mask, self.dim)
        queries = split_heads(self.query(x), width=self.width)
        if carry is not None:
            return self._finish(self._step(queries, x, mask, key_weights, value_weights, carry), mask)
        if context is None:
            require(context_mask is None, "context_mask is given without a context")
            source, source_mask = x, mask
        else:
            source, source_mask = self._check_context(context, context_mask), context_mask
        given = self._weights(source, source_mask, None, key_weights, value_weights)
        if self.causal:
            y, _ = self._attend_causal(queries, x, given, None)
        else:
            y = self._read(queries, self._sum(source, given), self._filled(given))
        y = self._finish(y, mask)
        if not return_attention:
            return y
        return y, self._implied(queries, source, given)

    def init_state(
        self,
        batch_size: int,
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> LowRankState:
        """The state before the first token; with ``context``, that context's slots.

        Raises:
            NotCausalError: if the layer is bidirectional and no context is given.
        """
        if context is not None:
            return self._read_context(context, context_mask)
        if not self.causal:
            raise NotCausalError("this LowRankAttention")
        device, dtype = default_device(self, device, dtype)
        exact, width = torch.promote_types(dtype, torch.float32), self.width
        slots = empty_slots(batch_size, self.kv_heads, self.slots, width, width, device=device, dtype=exact)
        return LowRankState(slots, None, torch.zeros(batch_size, dtype=torch.int64, device=device))

    def extend(
        self,
        x: Tensor,
        state: LowRankState,
        *,
        mask: Tensor | None = None,
        key_weights: Tensor | None = None,
        value_weights: Tensor | None = None,
    ) -> tuple[Tensor, LowRankState]:
        """The next piece of the sequence: (B, N, D) and the state before -> (B, N, D) and the state after. Cost does not depend on what
        came before.

        Raises:
            ValueError: if the sequence grows over ``max_length``.
        """
        return self._carried(x, state=state, mask=mask, key_weights=key_weights, value_weights=value_weights)

    def _step(
        self,
        queries: Tensor,
        x: Tensor,
        mask: Tensor | None,
        key_weights: Tensor | None,
        value_weights: Tensor | None,
        carry: Carry,
    ) -> Tensor:
        """The mix of values (B, H, N, K), with the state after in ``carry``."""
        state = carry.before
        if not self.causal:
            carry.after = state
            return self._read(queries, (state.slots.keys, state.slots.values), state.filled)
        given = self._weights(x, mask, state.seen, key_weights, value_weights)
        y, slots = self._attend_causal(queries, x, given, state.slots)
        carry.after = LowRankState(slots, None, count_on(state.seen, mask, x.shape[1]))
        return y

    def _finish(self, y: Tensor, mask: Tensor | None) -> Tensor:
        return zero_padding(self.output(merge_heads(y)), mask)

    def _attend_causal(
        self, queries: Tensor, x: Tensor, weights: tuple[Tensor, Tensor], slots: SlotState | None
    ) -> tuple[Tensor, SlotState]:
        keys, values = (split_heads(y, width=self.width) for y in maps_of(x, self.key, self.value))
        return causal_slot_attention(queries, keys, values, *weights, slots, dropout=self.dropout if self.training else 0.0)

    def _sum(self, source: Tensor, weights: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The slots' keys and values (B, H or 1, R, K): the sequence summed first, then mapped."""
        dtype = exact_dtype(source)
        with no_autocast(source):
            key_slots = slot_sums(weights[0].to(dtype), source.to(dtype))
            value_slots = key_slots if weights[1] is weights[0] else slot_sums(weights[1].to(dtype), source.to(dtype))
        keys, values = self.key(key_slots.to(source.dtype)), self.value(value_slots.to(source.dtype))
        return split_heads(keys, width=self.width), split_heads(values, width=self.width)

    def _read(self, queries: Tensor, slots: tuple[Tensor, Tensor], filled: Tensor | None) -> Tensor:
        keys, values = (tensor.expand(-1, queries.shape[1], -1, -1) for tensor in slots)
        return softmax_attention(queries, keys, values, allowed=filled, dropout=self.dropout if self.training else 0.0)

    def _check_context(self, context: Tensor, context_mask: Tensor | None) -> Tensor:
        require(not self.causal, "a context needs causal=False: there is no order between the two sequences")
        return checked(context, context_mask, self.context_dim, name="context", mask_name="context_mask")

    def _read_context(self, context: Tensor, context_mask: Tensor | None) -> LowRankState:
        context = self._check_context(context, context_mask)
        weights = self._weights(context, context_mask, None, None, None)
        seen = count_real(context_mask, context.shape[0], context.shape[1], context.device)
        filled = self._filled(weights)
        filled = None if filled is None else filled.expand(context.shape[0], -1, -1, -1)
        return LowRankState(SlotState(*self._sum(context, weights)), filled, seen)

    def _filled(self, weights: tuple[Tensor, Tensor]) -> Tensor | None:
        """Which slots hold anything, (B or 1, 1, 1, R); runs of a pooled projection may be empty when N < R."""
        if self.projection is None or part_with(self.projection, "kind").kind == "learned":
            return None
        rows = weights[0] if weights[0].dim() == 3 else weights[0][None]
        return (rows != 0).any(dim=-2)[:, None, None]

    def _implied(self, queries: Tensor, source: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        everything = torch.eye(source.shape[1], dtype=queries.dtype, device=queries.device).expand(source.shape[0], 1, -1, -1)
        if self.causal:
            keys = split_heads(self.key(source), width=self.width)
            keys, everything = (tensor.expand(-1, queries.shape[1], -1, -1) for tensor in (keys, everything))
            return causal_slot_attention(queries, keys, everything, *weights)[0]
        value_slots = weights[1].transpose(-1, -2).to(queries.dtype)
        value_slots = (value_slots if value_slots.dim() == 3 else value_slots[None])[:, None].expand(source.shape[0], 1, -1, -1)
        return self._read(queries, (self._sum(source, weights)[0], value_slots), self._filled(weights))

    def _weights(
        self, source: Tensor, mask: Tensor | None, seen: Tensor | None, key_weights: Tensor | None, value_weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """E and F at the positions of ``source``: those of this layer, or those given."""
        if self.projection is not None:
            require(
                key_weights is None and value_weights is None, "key_weights and value_weights are for share='layer'; this layer has its own"
            )
            return slot_weights(self.projection, source, mask, seen, causal=self.causal)
        if key_weights is None:
            raise ValueError("share='layer' takes E from outside: pass key_weights, (S, R) or (B, S, R)")
        return key_weights, key_weights if value_weights is None else value_weights


def slot_weights(
    projection: SlotProjection, source: Tensor, mask: Tensor | None, seen: Tensor | None, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """E and F at the positions of (B, S, D), after checking that there are so many.

    Raises:
        ValueError: if a row has more real tokens than ``max_length``, counted with the ``seen`` ones before.
    """
    inner, length = part_with(projection, "first"), source.shape[1]
    limit, learned = inner.max_length, inner.kind == "learned"
    whole = mask is None and seen is None and limit is not None and length <= limit
    if whole and learned and is_untouched(projection, SlotProjection):
        return projection.first(length)
    positions = token_positions(mask, length, seen, device=source.device)
    if limit is not None:
        check_positions(positions, seen, limit)
    lengths = None if causal or learned else count_real(mask, source.shape[0], length, source.device)
    return projection(positions, lengths)
