"""Performer and PerformerLM with the published keywords, results and checkpoints, on the layers that this package shares.

Axes: B batch, N length, S length (context), D width, K head width, V tokens.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.feed_forward import FeedForward
from ...layers.norms import ScaleNorm
from ...layers.residual import Branch, ResidualStack, StackState, default_device
from ...ops.errors import NotCausalError, check_mask, check_sequence, require, require_positive, require_probability
from ...ops.padding import count_real, token_positions, zero_padding
from ...ops.state import State, state
from .attention import Attention, CrossAttention, SelfAttention
from .checkpoints import rename_performer_keys
from .fast_attention import FastAttention
from .positions import AbsolutePositionalEmbedding, AxialPositionalEmbedding, FixedPositionalEmbedding, sinusoid
from .redraw import ProjectionUpdater, redraw_all_

__all__ = [
    "AbsolutePositionalEmbedding",
    "Attention",
    "AxialPositionalEmbedding",
    "CrossAttention",
    "FastAttention",
    "FixedPositionalEmbedding",
    "Performer",
    "PerformerLM",
    "ProjectionUpdater",
    "SelfAttention",
]


@state
class DecoderState(State):
    """What a causal language model remembers of the tokens so far."""

    stack: StackState
    seen: Tensor  # (B,) int64, real tokens


class Performer(nn.Module):
    """The stack of layers: (B, N, D) -> (B, N, D). Attention and feed-forward per layer; with ``cross_attend`` also cross-attention and
    another feed-forward after them.

    Args:
        dim, depth, heads, dim_head: D, layers, heads and K (None: dim / heads).
        local_attn_heads: heads per layer that attend to a window of ``local_window_size``; one number, or one per layer.
        causal: position i sees tokens up to i.
        ff_mult, ff_glu, ff_chunks, ff_dropout: the feed-forward layers.
        nb_features, generalized_attention, kernel_fn, no_projection: see :class:`FastAttention`.
        feature_redraw_interval: forward calls in training from one redraw of the random features to the next; None = never.
        reversible: recompute activations in backward; the result is the sum of two streams.
        use_scalenorm, use_rezero: instead of a layer norm before each branch; ScaleNorm wins when both are asked for, as published.
        attn_dropout: see :class:`Attention`.
        cross_attend: see above.
        auto_check_redraw: count forward calls here; otherwise call :meth:`check_redraw_projections` once a step.
        qkv_bias, attn_out_bias: biases of the attention layers.
        shift_tokens: some channels come from the neighbouring tokens.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self,
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
        generalized_attention: bool = False,
        kernel_fn: Callable[[Tensor], Tensor] = F.relu,
        use_scalenorm: bool = False,
        use_rezero: bool = False,
        ff_glu: bool = False,
        ff_dropout: float = 0.0,
        attn_dropout: float = 0.0,
        cross_attend: bool = False,
        no_projection: bool = False,
        auto_check_redraw: bool = True,
        qkv_bias: bool = True,
        attn_out_bias: bool = True,
        shift_tokens: bool = False,
    ):
        super().__init__()
        require_positive(depth=depth)
        local_heads = _per_layer(local_attn_heads, depth, heads)
        norm = "scale" if use_scalenorm else "rezero" if use_rezero else "layer"
        attention: dict[str, Any] = {
            "heads": heads, "dim_head": dim_head, "nb_features": nb_features, "generalized_attention": generalized_attention,
            "kernel_fn": kernel_fn, "dropout": attn_dropout, "no_projection": no_projection, "qkv_bias": qkv_bias,
            "attn_out_bias": attn_out_bias,
        }  # fmt: skip

        def feed_forward(shift: bool) -> Branch:
            layer = FeedForward(dim, mult=ff_mult, glu=ff_glu, chunks=ff_chunks, dropout=ff_dropout)
            return Branch(layer, dim=dim, norm=norm, token_shift=shift, causal=causal)

        blocks: list[dict[str, Branch | None]] = []
        for local in local_heads:
            layer: Attention = SelfAttention(dim, causal=causal, local_heads=local, local_window_size=local_window_size, **attention)
            reads = ("mask", "pos_emb")
            branch = Branch(layer, dim=dim, norm=norm, reads=reads, token_shift=shift_tokens, causal=causal)
            blocks.append({"attention": branch, "feed_forward": feed_forward(shift_tokens)})
            if cross_attend:
                branch = Branch(CrossAttention(dim, **attention), dim=dim, norm=norm, reads=("context", "context_mask"))
                blocks.append({"cross_attention": branch, "feed_forward": feed_forward(False)})
        self.dim, self.causal, self.cross_attend, self.norm = dim, causal, cross_attend, norm
        self.net = ResidualStack(blocks, reversible=reversible)
        self.auto_check_redraw = auto_check_redraw
        self.proj_updater = ProjectionUpdater(self.net, feature_redraw_interval)
        for module in self.modules():
            if isinstance(module, ScaleNorm):
                nn.init.ones_(module.gain)  # the published start
        self.register_load_state_dict_pre_hook(rename_performer_keys)

    def check_redraw_projections(self) -> None:
        """Count a call, and redraw the random features when it is time. Does nothing in eval mode."""
        self.proj_updater.redraw_projections()

    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Draw new random features now; ``generator`` is a CPU generator, None the global one."""
        redraw_all_(self, generator)

    def fix_projection_matrices_(self) -> None:
        """Never redraw by count again."""
        self.proj_updater.fix_projections_()

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        pos_emb: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D).

        Args:
            mask: (B, N) bool, True = real token. What padding holds does not matter.
            pos_emb: (1 or B, N, K) sinusoid that rotates queries and keys.
            context, context_mask: (B, S, D) and bool (B, S); with ``cross_attend`` only, and then needed.
        """
        check_sequence(x, self.dim)
        check_mask(mask, *x.shape[:2])
        self._check_context(context)
        if self.auto_check_redraw:
            self.check_redraw_projections()
        x = self.net(zero_padding(x, mask), mask=mask, pos_emb=pos_emb, context=context, context_mask=context_mask)
        return 2 * x if self.net.reversible else x  # the published sum of the streams

    def init_state(
        self,
        batch_size: int,
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> StackState:
        """Before the first token. The context is read here."""
        if not self.causal:
            raise NotCausalError("this Performer")
        self._check_context(context)
        where, kind = default_device(self, device, dtype)
        return self.net.init_state(batch_size, device=where, dtype=kind, context=context, context_mask=context_mask)

    def extend(
        self, x: Tensor, state: StackState, *, mask: Tensor | None = None, pos_emb: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        """The next N tokens, and the state after them."""
        check_sequence(x, self.dim)
        check_mask(mask, *x.shape[:2])
        x, state = self.net.extend(zero_padding(x, mask), state, mask=mask, pos_emb=pos_emb)
        return (2 * x if self.net.reversible else x), state

    def _check_context(self, context: Tensor | None) -> None:
        require(context is None or self.cross_attend, "context was given to a Performer without cross_attend=True")
        require(context is not None or not self.cross_attend, "cross_attend=True needs context, (batch, length, dim), got None")


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
        kernel_fn: Callable[[Tensor], Tensor] = F.relu,
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
        self.dropout = nn.Dropout(emb_dropout)
        self.performer = Performer(
            dim, depth, heads, dim_head, local_attn_heads, local_window_size, causal, ff_mult, nb_features, feature_redraw_interval,
            reversible, ff_chunks, generalized_attention, kernel_fn, use_scalenorm, use_rezero, ff_glu, ff_dropout, attn_dropout,
            cross_attend, no_projection, auto_check_redraw, qkv_bias, attn_out_bias, shift_tokens,
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim)
        self.to_out = None if tie_embed else nn.Linear(dim, num_tokens)
        self.register_load_state_dict_pre_hook(_forget_rotation_table)

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
        seen = state.seen + count_real(mask, x.shape[0], x.shape[1], x.device)
        x, pos_emb = self._embed(x, token_positions(mask, x.shape[1], state.seen))
        x, stack = self.performer.extend(x, state.stack, mask=mask, pos_emb=pos_emb)
        return self._finish(x, False), DecoderState(stack, seen)

    def _embed(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.token_emb(tokens)
        x = self.dropout(x + self.pos_emb(x, positions))
        return x, None if self.rotary_width is None else sinusoid(positions, self.rotary_width)

    def _finish(self, x: Tensor, return_encodings: bool) -> Tensor:
        x = self.norm(x)
        if return_encodings:
            return x
        return F.linear(x, self.token_emb.weight) if self.to_out is None else self.to_out(x)


def _per_layer(local_attn_heads: int | tuple[int, ...], depth: int, heads: int) -> tuple[int, ...]:
    """Local heads of each layer."""
    given = tuple(local_attn_heads) if isinstance(local_attn_heads, tuple | list) else (local_attn_heads,)
    every = given * depth if len(given) == 1 else given
    require(len(every) == depth, f"local_attn_heads must be one number, or one per layer ({depth}), got {local_attn_heads!r}")
    require(all(0 <= count <= heads for count in every), f"local_attn_heads must be from 0 to heads = {heads}, got {local_attn_heads!r}")
    return every


def _forget_rotation_table(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    state_dict.pop(prefix + "layer_pos_emb.emb", None)
