"""The published Perceiver AR: its layers and model, with fused attention.

Kept because trained weights depend on it: learned positions and rotary ones together, rotary on the first max(32, dim_head // 2) channels,
latents that are normed differently as keys than prefix tokens are, and no norm before the logits. Mended: ``dropout`` reaches the
self-attention layers; narrow heads, and input no longer than the prefix, work; a loss without a single target is 0.

Axes: B batch, N length, P length of the prefix, S length (keys), D width, H heads, K head width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...attention.latent.right_aligned import allowed_pairs
from ...attention.softmax.op import softmax_attention
from ...core.errors import check_mask, require, require_positive, require_probability
from ...core.padding import pack
from ...core.scalars import plain_scalars
from ...layers.multi_head import merge_heads, split_heads
from ...layers.rotary.op import apply_rotary

__all__ = ["CausalAttention", "CausalPrefixAttention", "FeedForward", "PerceiverAR", "RotaryEmbedding"]


class PerceiverAR(nn.Module):
    """Tokens to logits of the positions after the prefix.

    Args:
        num_tokens: V.
        dim: D.
        depth: self-attention layers.
        max_seq_len: rows of the position table, the longest input.
        cross_attn_seq_len: P. The first P tokens are only attended to; the others are latents.
        dim_head: K.
        heads: H.
        dropout: of attention weights and in the feed-forward layers.
        cross_attn_dropout: fraction of the prefix left out in training, drawn anew by each cross-attention layer.
        ff_mult: inner width of the feed-forward layers over D.
        perceive_depth: cross-attention layers.
        perceive_max_heads_process: changes nothing. It bounded the memory of attention scores, which are not kept here.

    Raises:
        ValueError: for sizes out of range.
    """

    @plain_scalars
    def __init__(
        self,
        *,
        num_tokens: int,
        dim: int,
        depth: int,
        max_seq_len: int,
        cross_attn_seq_len: int,
        dim_head: int = 64,
        heads: int = 8,
        dropout: float = 0.0,
        cross_attn_dropout: float = 0.0,
        ff_mult: float = 4,
        perceive_depth: int = 1,
        perceive_max_heads_process: int = 2,
    ):
        super().__init__()
        require_positive(num_tokens=num_tokens, dim=dim, max_seq_len=max_seq_len, dim_head=dim_head, heads=heads)
        require_positive(perceive_max_heads_process=perceive_max_heads_process)
        require_probability(dropout=dropout, cross_attn_dropout=cross_attn_dropout)
        require(
            0 <= cross_attn_seq_len < max_seq_len,
            f"cross_attn_seq_len must be at least 0 and less than max_seq_len={max_seq_len}, got {cross_attn_seq_len}",
        )
        self.max_seq_len, self.cross_attn_seq_len = max_seq_len, cross_attn_seq_len
        self.token_emb = nn.Embedding(num_tokens, dim)
        self.pos_emb = nn.Embedding(max_seq_len, dim)
        self.rotary_pos_emb = RotaryEmbedding(max(32, dim_head // 2))
        self.perceive_layers, self.layers = nn.ModuleList(), nn.ModuleList()
        for _ in range(perceive_depth):
            cross = CausalPrefixAttention(dim=dim, dim_head=dim_head, heads=heads, dropout=dropout, cross_attn_dropout=cross_attn_dropout)
            self.perceive_layers.append(nn.ModuleList((cross, FeedForward(dim, ff_mult, dropout))))
        for _ in range(depth):
            attention = CausalAttention(dim=dim, dim_head=dim_head, heads=heads, dropout=dropout)
            self.layers.append(nn.ModuleList((attention, FeedForward(dim, ff_mult, dropout))))
        self.to_logits = nn.Linear(dim, num_tokens, bias=False)

    def forward(self, x: Tensor, prefix_mask: Tensor | None = None, labels: Tensor | None = None, *, ignore_index: int = 0) -> Tensor:
        """Logits, or the loss when labels are given.

        Args:
            x: (B, N) tokens, N from 1 to ``max_seq_len``. When N is not greater than P, the prefix is all but the last token.
            prefix_mask: (B, M) bool, True = may be attended to, for the first M <= N tokens, commonly the prefix.
            labels: (B, N), the target of each position; those of the prefix are not used.
            ignore_index: labels of this value do not count. The published package always leaves out token 0; pass -100 to learn it.

        Returns:
            (B, N - P, V) logits, or the scalar mean cross-entropy over the labels that count; 0 when none does.

        Raises:
            ValueError: for wrong shapes or too long an input.
        """
        require(x.dim() == 2 and x.shape[1] >= 1, f"x must be (batch, length) tokens with length at least 1, got {tuple(x.shape)}")
        batch, length = x.shape
        require(length <= self.max_seq_len, f"x must hold at most max_seq_len={self.max_seq_len} tokens, got {length}")
        if labels is not None:
            require(labels.shape == x.shape, f"labels must be {tuple(x.shape)} as x, got {tuple(labels.shape)}")
        if prefix_mask is not None:
            require(
                prefix_mask.dim() == 2 and prefix_mask.shape[1] <= length,
                f"prefix_mask must be (batch, M) with M at most the length {length}, got {tuple(prefix_mask.shape)}",
            )
            check_mask(prefix_mask, batch, prefix_mask.shape[1], name="prefix_mask")

        prefix_length = min(self.cross_attn_seq_len, length - 1)
        y = self.token_emb(x) + self.pos_emb(torch.arange(length, device=x.device))
        angles = self.rotary_pos_emb(length)
        prefix, y = y[:, :prefix_length], y[:, prefix_length:]
        for cross, feed_forward in _pairs(self.perceive_layers):
            y = y + cross(y, prefix, context_mask=prefix_mask, rotary_pos_emb=angles)
            y = y + feed_forward(y)
        for attention, feed_forward in _pairs(self.layers):
            y = y + attention(y, rotary_pos_emb=angles)
            y = y + feed_forward(y)
        logits = self.to_logits(y)
        return logits if labels is None else _mean_loss(logits, labels[:, prefix_length:], ignore_index)


class CausalPrefixAttention(nn.Module):
    """Latents attend to a prefix and, causally, to themselves; with its norms, without the residual.

    Args:
        dim, dim_head, heads, dropout, cross_attn_dropout: as in :class:`PerceiverAR`.
        max_heads_process: changes nothing, see there.
    """

    @plain_scalars
    def __init__(
        self,
        *,
        dim: int,
        dim_head: int = 64,
        heads: int = 8,
        max_heads_process: int = 2,
        dropout: float = 0.0,
        cross_attn_dropout: float = 0.0,
    ):
        super().__init__()
        require_positive(dim=dim, dim_head=dim_head, heads=heads, max_heads_process=max_heads_process)
        require_probability(dropout=dropout, cross_attn_dropout=cross_attn_dropout)
        self.heads, self.dim_head, self.cross_attn_dropout = heads, dim_head, cross_attn_dropout
        self.norm, self.context_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(self, x: Tensor, context: Tensor, context_mask: Tensor | None = None, rotary_pos_emb: Tensor | None = None) -> Tensor:
        """Attention of the latents.

        Args:
            x: (B, N, D).
            context: (B, P, D), the prefix.
            context_mask: (B, M) bool for the first M of prefix and latents; the others may be attended to.
            rotary_pos_emb: (P + N, R) angles from :class:`RotaryEmbedding`.

        Returns:
            (B, N, D).
        """
        batch, length = x.shape[:2]
        places = torch.arange(context.shape[1] + length, device=x.device).expand(batch, -1)
        own, seen = places[:, context.shape[1] :], places
        if context_mask is not None:
            seen = places.masked_fill(~F.pad(context_mask, (0, places.shape[1] - context_mask.shape[1]), value=True), -1)
        if self.training and self.cross_attn_dropout > 0:
            prefix = self._keep(context)
            context, places = pack(context, prefix), torch.cat((prefix, own), dim=1)
            seen = seen.gather(1, places)
        allowed = None if context_mask is None else allowed_pairs(own, seen)
        x = self.norm(x)
        queries = split_heads(self.to_q(x), width=self.dim_head)
        keys, values = self.to_kv(torch.cat((self.context_norm(context), x), dim=1)).chunk(2, dim=-1)
        keys, values = split_heads(keys, width=self.dim_head), split_heads(values, width=self.dim_head)
        if rotary_pos_emb is not None:
            queries, keys = _turn(queries, rotary_pos_emb[own]), _turn(keys, rotary_pos_emb[places])
        dropout = self.dropout.p if self.dropout.training else 0.0
        y = softmax_attention(queries, keys, values, allowed=allowed, causal=allowed is None, dropout=dropout)
        return self.to_out(merge_heads(y))

    def _keep(self, context: Tensor) -> Tensor:
        """Which prefix tokens stay: (B, P') int64, ascending. Padding counts like tokens here, and the draw is the published one."""
        length = context.shape[1]
        chance = torch.rand(context.shape[:2], device=context.device)
        return chance.topk(length - int(length * self.cross_attn_dropout), dim=-1).indices.sort(dim=-1).values


class CausalAttention(nn.Module):
    """Causal self-attention with its norm, without the residual. Arguments as in :class:`PerceiverAR`."""

    @plain_scalars
    def __init__(self, *, dim: int, dim_head: int = 64, heads: int = 8, dropout: float = 0.0):
        super().__init__()
        require_positive(dim=dim, dim_head=dim_head, heads=heads)
        require_probability(dropout=dropout)
        self.heads, self.dim_head = heads, dim_head
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor, rotary_pos_emb: Tensor | None = None) -> Tensor:
        """(B, N, D) and the angles of N positions or more, of which the last N count -> (B, N, D)."""
        queries, keys, values = (split_heads(part, width=self.dim_head) for part in self.to_qkv(self.norm(x)).chunk(3, dim=-1))
        if rotary_pos_emb is not None:
            angles = rotary_pos_emb[-x.shape[1] :]
            queries, keys = _turn(queries, angles), _turn(keys, angles)
        dropout = self.dropout.p if self.dropout.training else 0.0
        return self.to_out(merge_heads(softmax_attention(queries, keys, values, causal=True, dropout=dropout)))


class RotaryEmbedding(nn.Module):
    """Angles of ``dim // 2`` channel pairs. The rates are a buffer, as in published checkpoints."""

    inv_freq: Tensor

    @plain_scalars
    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim))

    def forward(self, length: int) -> Tensor:
        """(length, dim // 2), in float32 at least."""
        rates = self.inv_freq.to(torch.promote_types(self.inv_freq.dtype, torch.float32))
        return torch.arange(length, device=rates.device, dtype=rates.dtype)[:, None] * rates


def FeedForward(dim: int, mult: float = 4, dropout: float = 0.0) -> nn.Sequential:
    """Norm, D -> mult D, GELU, dropout, mult D -> D; no biases. A function of this name, as published."""
    inner = int(dim * mult)
    expand, contract = nn.Linear(dim, inner, bias=False), nn.Linear(inner, dim, bias=False)
    return nn.Sequential(nn.LayerNorm(dim), expand, nn.GELU(), nn.Dropout(dropout), contract)


def _pairs(layers: nn.ModuleList) -> list[tuple[nn.Module, nn.Module]]:
    return [(layer[0], layer[1]) for layer in layers]  # type: ignore[index]


def _turn(x: Tensor, angles: Tensor) -> Tensor:
    return apply_rotary(x, angles[..., : x.shape[-1] // 2])  # heads narrower than the table have no use for its slowest rates


def _mean_loss(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp_min(1)
