"""The language model around the Performer, with the published keywords and results.

Axes: B batch, N length, D width, V tokens.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import check_mask, require_positive, require_probability
from ...core.padding import count_on, token_positions
from ...core.scalars import plain_scalars
from ...core.state import State, state
from ...layers.residual import StackState
from ...layers.streaming import default_device
from .performer import Performer
from .positions import AbsolutePositionalEmbedding, Always, AxialPositionalEmbedding, FixedPositionalEmbedding


@state
class DecoderState(State):
    """What a causal language model remembers of the tokens so far."""

    stack: StackState
    seen: Tensor  # (B,) int64, real tokens


class PerformerLM(nn.Module):
    """Token embedding, positions, :class:`Performer`, norm and logits: (B, N) tokens -> (B, N, V).

    Args:
        num_tokens, max_seq_len: V and the largest N.
        emb_dropout: after the embedding.
        tie_embed: the logits are read with the token embedding.
        rotary_position_emb: fixed sinusoids, added to the embedding and rotating queries and keys in every layer.
        axial_position_emb, axial_position_shape: learned axial tables; the shape defaults to (max_seq_len / 64, 64). Else: a learned table.
        others: see :class:`Performer`.

    Raises:
        ValueError: for values out of range.
    """

    @plain_scalars
    def __init__(
        self,
        *,
        num_tokens: int,
        max_seq_len: int,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int | None = 64,
        local_attn_heads: int | tuple[int, ...] = 0,
        local_window_size: int = 256,
        causal: bool = False,
        ff_mult: int = 4,
        nb_features: int | None = None,
        feature_redraw_interval: int | None = 1000,
        reversible: bool = False,
        ff_chunks: int = 1,
        ff_glu: bool = False,
        emb_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        attn_dropout: float = 0.0,
        generalized_attention: bool = False,
        kernel_fn: Callable[[Tensor], Tensor] | None = None,
        use_scalenorm: bool = False,
        use_rezero: bool = False,
        cross_attend: bool = False,
        no_projection: bool = False,
        tie_embed: bool = False,
        rotary_position_emb: bool = True,
        axial_position_emb: bool = False,
        axial_position_shape: tuple[int, ...] | None = None,
        auto_check_redraw: bool = True,
        qkv_bias: bool = False,
        attn_out_bias: bool = False,
        shift_tokens: bool = False,
    ):
        super().__init__()
        require_positive(num_tokens=num_tokens, max_seq_len=max_seq_len, dim=dim, heads=heads)
        require_probability(emb_dropout=emb_dropout)
        self.max_seq_len, self.causal = max_seq_len, causal
        self.token_emb = nn.Embedding(num_tokens, dim)
        self.rotary_width = (dim // heads if dim_head is None else dim_head) if rotary_position_emb else None
        if rotary_position_emb:
            self.pos_emb: nn.Module = FixedPositionalEmbedding(dim, max_seq_len)
        elif axial_position_emb:
            self.pos_emb = AxialPositionalEmbedding(dim, axial_position_shape or (math.ceil(max_seq_len / 64), 64))
        else:
            self.pos_emb = AbsolutePositionalEmbedding(dim, max_seq_len)
        rotation = None if self.rotary_width is None else FixedPositionalEmbedding(self.rotary_width, max_seq_len, exact=True)
        self.layer_pos_emb = Always(None) if rotation is None else rotation
        self.dropout = nn.Dropout(emb_dropout)
        self.performer = Performer(
            dim, depth, heads, dim_head, local_attn_heads, local_window_size, causal, ff_mult, nb_features, feature_redraw_interval,
            reversible, ff_chunks, generalized_attention, kernel_fn, use_scalenorm, use_rezero, ff_glu, ff_dropout, attn_dropout,
            cross_attend, no_projection, auto_check_redraw, qkv_bias, attn_out_bias, shift_tokens,
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim)
        self.to_out = None if tie_embed else nn.Linear(dim, num_tokens)

    def check_redraw_projections(self) -> None:
        """See :meth:`Performer.check_redraw_projections`."""
        self.performer.check_redraw_projections()

    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """See :meth:`Performer.redraw_`."""
        self.performer.redraw_(generator)

    def fix_projection_matrices_(self) -> None:
        """See :meth:`Performer.fix_projection_matrices_`."""
        self.performer.fix_projection_matrices_()

    def forward(
        self,
        x: Tensor,
        return_encodings: bool = False,
        *,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, N) tokens -> (B, N, V) logits, or (B, N, D) with ``return_encodings``; other arguments as in :meth:`Performer.forward`.

        Raises:
            ValueError: if N exceeds ``max_seq_len``.
        """
        if x.dim() != 2 or not 1 <= x.shape[1] <= self.max_seq_len:
            raise ValueError(f"x must be (batch, length) tokens, length from 1 to max_seq_len = {self.max_seq_len}, got {tuple(x.shape)}")
        check_mask(mask, *x.shape)
        x, pos_emb = self._embed(x, token_positions(mask, x.shape[1], device=x.device))
        x = self.performer(x, mask=mask, pos_emb=pos_emb, context=context, context_mask=context_mask)
        return self._finish(x, return_encodings)

    def init_state(
        self,
        batch_size: int,
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> DecoderState:
        """Before the first token, for causal models."""
        stack = self.performer.init_state(batch_size, context=context, context_mask=context_mask, device=device, dtype=dtype)
        where = default_device(self, device, dtype)[0]
        return DecoderState(stack, torch.zeros(batch_size, dtype=torch.int64, device=where))

    def extend(self, x: Tensor, state: DecoderState, *, mask: Tensor | None = None) -> tuple[Tensor, DecoderState]:
        """The next (B, N) tokens -> (B, N, V) logits, and the state after them. Up to ``max_seq_len`` tokens in all."""
        check_mask(mask, *x.shape)
        seen = count_on(state.seen, mask, x.shape[1])
        x, pos_emb = self._embed(x, token_positions(mask, x.shape[1], state.seen))
        x, stack = self.performer.extend(x, state.stack, mask=mask, pos_emb=pos_emb)
        return self._finish(x, False), DecoderState(stack, seen)

    def _embed(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.token_emb(tokens)
        x = self.dropout(x + self.pos_emb(x, positions))
        return x, self.layer_pos_emb(x, positions)

    def _finish(self, x: Tensor, return_encodings: bool) -> Tensor:
        x = self.norm(x)
        if return_encodings:
            return x
        return F.linear(x, self.token_emb.weight) if self.to_out is None else self.to_out(x)
