"""Attention layers as published: some heads use random features, the others a local window.

Axes: B batch, H heads, N length, S length (context), D width, K head width, W window.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...attention.favor.efficient import EfficientState
from ...attention.favor.state import FeatureState
from ...attention.softmax.window import WindowState
from ...core.errors import NotCausalError, check_mask, check_sequence, require, require_positive, require_probability
from ...core.padding import zero_padding
from ...core.scalars import plain_scalars
from ...core.state import State, state
from ...layers.streaming import Carry
from .fast_attention import FastAttention
from .local_attention import LocalAttention
from .positions import rotate_by_sinusoid


@state
class AttentionState(State):
    """What the two kinds of heads remember of the tokens so far; None where there are no such heads."""

    features: FeatureState | None
    window: WindowState | None


@state
class ContextState(State):
    """The summary of a context, which does not change as queries come."""

    summary: FeatureState | EfficientState


class Attention(nn.Module):
    """Self-attention, or cross-attention when a context is given. Mask: (B, N) bool, True = real token.

    Args:
        dim: D.
        causal: position i sees tokens up to i.
        heads: H.
        dim_head: K; None takes dim / heads.
        local_heads: how many of the heads attend to a window (the last ones).
        local_window_size: W.
        nb_features, generalized_attention, kernel_fn, no_projection: see :class:`FastAttention`.
        feature_redraw_interval: accepted and, as published, of no effect on a layer of its own; call ``redraw_`` to redraw.
        dropout: of the output, and of the weights of local heads.
        qkv_bias, attn_out_bias: biases of the input maps and of the output map.

    Raises:
        ValueError: for values out of range.
    """

    @plain_scalars
    def __init__(
        self,
        dim: int,
        causal: bool = False,
        heads: int = 8,
        dim_head: int | None = 64,
        local_heads: int = 0,
        local_window_size: int = 256,
        nb_features: int | None = None,
        feature_redraw_interval: int | None = 1000,
        generalized_attention: bool = False,
        kernel_fn: Callable[[Tensor], Tensor] | None = None,
        dropout: float = 0.0,
        no_projection: bool = False,
        qkv_bias: bool = False,
        attn_out_bias: bool = True,
    ):
        super().__init__()
        require_positive(dim=dim, heads=heads, dim_head=dim_head, local_window_size=local_window_size)
        require_probability(dropout=dropout)
        require(0 <= local_heads <= heads, f"local_heads must be from 0 to heads = {heads}, got {local_heads!r}")
        if dim_head is None:
            require(dim % heads == 0, f"dim must be a multiple of heads when dim_head is None, got dim {dim} and heads {heads}")
            dim_head = dim // heads
        self.dim, self.causal, self.heads, self.dim_head = dim, causal, heads, dim_head
        self.global_heads, self.local_heads, self.local_window_size = heads - local_heads, local_heads, local_window_size
        self.fast_attention = FastAttention(
            dim_head,
            nb_features,
            causal=causal,
            generalized_attention=generalized_attention,
            kernel_fn=kernel_fn,
            no_projection=no_projection,
        )
        self.local_attn = LocalAttention(local_window_size, causal, dropout=dropout, dim=dim_head) if local_heads else None
        inner = dim_head * heads
        self.to_q = nn.Linear(dim, inner, bias=qkv_bias)
        self.to_k = nn.Linear(dim, inner, bias=qkv_bias)
        self.to_v = nn.Linear(dim, inner, bias=qkv_bias)
        self.to_out = nn.Linear(inner, dim, bias=attn_out_bias)
        self.dropout = nn.Dropout(dropout)

    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Draw new random features; ``generator`` is a CPU generator, None the global one."""
        self.fast_attention.redraw_(generator)

    def forward(
        self,
        x: Tensor,
        pos_emb: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        carry: Carry | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D).

        Args:
            pos_emb: (1 or B, N, K) sinusoid that rotates queries and keys of the global heads; not used with a context.
            context: (B, S, D) to attend to; None = x.
            mask: (B, N).
            context_mask: (B, S); without a context, which keys the global heads see instead of ``mask``.
            carry: from a Performer's ``extend``: x are the next tokens after those that it remembers.
        """
        if carry is not None:
            y, carry.after = self.extend(x, carry.before, mask=mask, pos_emb=pos_emb)
            return y
        check_sequence(x, self.dim)
        check_mask(mask, *x.shape[:2])
        x = zero_padding(x, mask)
        if context is not None:
            k, v = self._context(context, context_mask)
            return self._finish([self.fast_attention(self._split(self.to_q(x))[0], k, v, mask=context_mask)])
        check_mask(context_mask, *x.shape[:2], name="context_mask")
        (q, local_q), (k, local_k), (v, local_v) = (self._split(to(x)) for to in (self.to_q, self.to_k, self.to_v))
        outputs = []
        if self.global_heads:
            if pos_emb is not None:
                q, k = rotate_by_sinusoid(q, pos_emb), rotate_by_sinusoid(k, pos_emb)
            outputs.append(self.fast_attention(q, k, v, mask=mask if context_mask is None else context_mask))
        if self.local_attn is not None:
            outputs.append(self.local_attn(local_q, local_k, local_v, input_mask=mask))
        return self._finish(outputs)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> AttentionState | ContextState:
        """Before the first token; a context is read here, once."""
        if context is not None:
            require(not self.causal, "causal attention reads its context along with the sequence: stream with causal=False")
            return ContextState(self.fast_attention.summarise(*self._context(context, context_mask), context_mask))
        if not self.causal:
            raise NotCausalError("this attention")
        like = torch.empty(0, device=device or self.to_q.weight.device, dtype=dtype or self.to_q.weight.dtype)
        features = self.fast_attention.init_state(batch_size, self.global_heads, like) if self.global_heads else None
        if self.local_attn is None:
            return AttentionState(features, None)
        return AttentionState(features, self.local_attn.init_window(batch_size, self.local_heads, device=like.device, dtype=like.dtype))

    def extend(
        self, x: Tensor, state: AttentionState | ContextState, *, mask: Tensor | None = None, pos_emb: Tensor | None = None
    ) -> tuple[Tensor, AttentionState | ContextState]:
        """The next N tokens (B, N, D) -> (B, N, D), and the state after them."""
        x = zero_padding(x, mask)
        if isinstance(state, ContextState):
            return self._finish([self.fast_attention.read(self._split(self.to_q(x))[0], state.summary)]), state
        (q, local_q), (k, local_k), (v, local_v) = (self._split(to(x)) for to in (self.to_q, self.to_k, self.to_v))
        features, window, outputs = state.features, state.window, []
        if features is not None:
            if pos_emb is not None:
                q, k = rotate_by_sinusoid(q, pos_emb), rotate_by_sinusoid(k, pos_emb)
            output, features = self.fast_attention.extend(q, k, v, features, mask=mask)
            outputs.append(output)
        if window is not None and self.local_attn is not None:
            output, window = self.local_attn.extend(local_q, local_k, local_v, window, mask=mask)
            outputs.append(output)
        return self._finish(outputs), AttentionState(features, window)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, H K) -> global heads and local heads (B, ., N, K)."""
        heads = x.unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2)
        return heads[:, : self.global_heads], heads[:, self.global_heads :]

    def _finish(self, outputs: list[Tensor]) -> Tensor:
        merged = torch.cat(outputs, dim=1).transpose(1, 2).flatten(2)
        return self.dropout(self.to_out(merged))

    def _context(self, context: Tensor, context_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, K) of a context (B, S, D)."""
        if self.local_heads:
            raise ValueError(f"local heads cannot attend to a context: use local_heads=0, got {self.local_heads}")
        check_sequence(context, self.dim, name="context")
        check_mask(context_mask, *context.shape[:2], name="context_mask")
        context = zero_padding(context, context_mask)
        return self._split(self.to_k(context))[0], self._split(self.to_v(context))[0]


class SelfAttention(Attention):
    """:class:`Attention` of a sequence to itself."""

    def forward(
        self,
        x: Tensor,
        pos_emb: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        carry: Carry | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        if context is not None:
            raise ValueError("SelfAttention takes no context: use CrossAttention")
        return super().forward(x, pos_emb, mask=mask, context_mask=context_mask, carry=carry)


class CrossAttention(Attention):
    """:class:`Attention` of a sequence to a context. With ``causal=True`` both must be equally long."""

    def forward(
        self,
        x: Tensor,
        pos_emb: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        carry: Carry | None = None,
    ) -> Tensor:
        """(B, N, D), context (B, S, D) -> (B, N, D)."""
        if context is None and carry is None:
            raise ValueError("CrossAttention needs context, (batch, length, dim), got None")
        return super().forward(x, context=context, mask=mask, context_mask=context_mask, carry=carry)
