"""The published package ``fast-transformer-pytorch`` (0.0.4): the same names, keywords, parameter names and numbers.

Additive attention (Fastformer, arXiv 2108.09084) as that package computes it. Kept because trained weights depend on it: the global key
is a mean of the *raw* keys (the paper and its authors' code average the keys already multiplied by the global query); all heads and
layers share the logit vectors; with rotary positions neighbouring channels are summed before the key logits and before the last map;
positions count every place, padded or not, so padding belongs on the right. Mended: ``mask`` may be left out, half precision works, and
in a row with no real token the global vectors are zero instead of an average of padding.

Axes: B batch, N length, D width, H heads, K head width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..attention.additive.op import softmax_mean
from ..core.errors import check_mask, check_sequence, require, require_positive
from ..core.padding import zero_padding
from ..core.scalars import plain_scalars
from ..layers.rotary.op import apply_rotary, rotary_angles
from .shared_modules import load_all, save_once

__all__ = ["FastAttention", "FastTransformer", "RotaryEmbedding"]

SHARED = ("to_q_attn_logits", "to_k_attn_logits")  # one of each for all layers


class FastTransformer(nn.Module):
    """A bidirectional Fastformer from tokens to logits.

    Args:
        num_tokens: vocabulary.
        dim: D.
        depth: layers.
        max_seq_len: the longest input.
        heads: H.
        dim_head: K.
        ff_mult: inner width of the feed-forward layers over ``dim``.
        absolute_pos_emb: a learned position table; otherwise rotary positions in every layer.

    Raises:
        ValueError: for sizes out of range, or a ``dim_head`` that rotary positions cannot use; in ``forward``, for input longer than
            ``max_seq_len``.
    """

    @plain_scalars
    def __init__(
        self,
        *,
        num_tokens: int,
        dim: int,
        depth: int,
        max_seq_len: int,
        heads: int = 8,
        dim_head: int = 64,
        ff_mult: int = 4,
        absolute_pos_emb: bool = False,
    ):
        super().__init__()
        require_positive(
            num_tokens=num_tokens, dim=dim, depth=depth, max_seq_len=max_seq_len, heads=heads, dim_head=dim_head, ff_mult=ff_mult
        )
        require(absolute_pos_emb or dim_head % 4 == 0, f"dim_head must be divisible by 4 for rotary positions, got {dim_head}")
        self.max_seq_len = max_seq_len
        self.token_emb = nn.Embedding(num_tokens, dim)
        self.abs_pos_emb = nn.Embedding(max_seq_len, dim) if absolute_pos_emb else None
        rotary = None if absolute_pos_emb else RotaryEmbedding(dim_head // 2)
        blocks: list[nn.ModuleList] = []
        for _ in range(depth):
            attention = FastAttention(dim, heads=heads, dim_head=dim_head, max_seq_len=max_seq_len, pos_emb=rotary)
            if blocks:
                for name in SHARED:
                    setattr(attention, name, getattr(blocks[0][0].fn, name))
            feed_forward = nn.Sequential(nn.Linear(dim, dim * ff_mult), nn.GELU(), nn.Linear(dim * ff_mult, dim))
            blocks.append(nn.ModuleList((PreNorm(dim, attention), PreNorm(dim, feed_forward))))
        self.layers = nn.ModuleList(blocks)
        self.to_logits = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_tokens))
        self.register_state_dict_post_hook(_save_shared_once)
        self.register_load_state_dict_pre_hook(_load_shared)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, N) and bool (B, N), True = real -> logits (B, N, V). Logits of padded positions mean nothing."""
        require(x.dim() == 2 and x.shape[1] >= 1, f"x must be tokens (batch, length) with at least one position, got {tuple(x.shape)}")
        _check_length(x.shape[1], self.max_seq_len)
        check_mask(mask, *x.shape)
        if mask is not None:
            x = x.masked_fill(~mask, 0)
        x = self.token_emb(x)
        if self.abs_pos_emb is not None:
            x = x + self.abs_pos_emb.weight[: x.shape[1]]
        layers: Any = self.layers
        for attention, feed_forward in layers:
            x = x + attention(x, mask=mask)
            x = x + feed_forward(x)
        return self.to_logits(x)


class FastAttention(nn.Module):
    """Additive attention: every position meets the sequence only through one global query and one global key a head.

    Args:
        dim: D.
        heads: H.
        dim_head: K.
        max_seq_len: the longest input; needed with ``pos_emb``.
        pos_emb: rotary positions: a :class:`RotaryEmbedding`, or any module with its frequencies in ``freqs``.

    Raises:
        ValueError: for sizes out of range; ``pos_emb`` without ``max_seq_len``; in ``forward``, for input longer than ``max_seq_len``.
    """

    @plain_scalars
    def __init__(self, dim: int, *, heads: int = 8, dim_head: int = 64, max_seq_len: int | None = None, pos_emb: nn.Module | None = None):
        super().__init__()
        require_positive(dim=dim, heads=heads, dim_head=dim_head, max_seq_len=max_seq_len)
        require(pos_emb is None or max_seq_len is not None, "max_seq_len must be given with rotary positions (pos_emb), got None")
        require(pos_emb is None or dim_head % 2 == 0, f"dim_head must be even for rotary positions, got {dim_head}")
        self.dim, self.heads, self.dim_head, self.max_seq_len = dim, heads, dim_head, max_seq_len
        self.scale = dim_head**-0.5
        self.pos_emb = pos_emb
        reduced = dim_head if pos_emb is None else dim_head // 2
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_q_attn_logits = nn.Linear(dim_head, 1, bias=False)
        self.to_k_attn_logits = nn.Linear(reduced, 1, bias=False)
        self.to_r = nn.Linear(reduced, dim_head)
        self.to_out = nn.Linear(heads * dim_head, dim)
        self.register_load_state_dict_pre_hook(_check_frequencies)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), zeros where ``mask`` is False.

        Args:
            x: (B, N, D).
            mask: (B, N) bool, True = a real token; None means that all are.
        """
        check_sequence(x, self.dim)
        check_mask(mask, *x.shape[:2])
        if self.max_seq_len is not None:
            _check_length(x.shape[1], self.max_seq_len)

        projected = self.to_qkv(zero_padding(x, mask)).unflatten(-1, (3, self.heads, self.dim_head))
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (B, H, N, K) each
        turned_query, turned_key, turned_value = self._rotate(query, key, value)
        query_logits = self.to_q_attn_logits(query).squeeze(-1) * self.scale
        global_query = softmax_mean(query_logits, turned_query, mask)  # (B, H, 1, K)
        key_logits = self.to_k_attn_logits(self._reduce(key * global_query)).squeeze(-1) * self.scale
        global_key = softmax_mean(key_logits, turned_key, mask)
        output = self.to_r(self._reduce(turned_value * global_key)) + query
        return zero_padding(self.to_out(output.transpose(1, 2).flatten(2)), mask)

    def _rotate(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if self.pos_emb is None:
            return tensors
        positions = torch.arange(tensors[0].shape[-2], device=tensors[0].device)
        if isinstance(self.pos_emb, RotaryEmbedding):
            angles = self.pos_emb(positions)
        else:
            frequencies: Tensor = self.pos_emb.freqs  # type: ignore[assignment]
            angles = positions[:, None] * frequencies.float()
        return tuple(apply_rotary(tensor, angles, interleaved=True) for tensor in tensors)

    def _reduce(self, x: Tensor) -> Tensor:
        """With rotary positions, the sum of each pair of neighbouring channels."""
        return x if self.pos_emb is None else x.unflatten(-1, (-1, 2)).sum(dim=-1)


class RotaryEmbedding(nn.Module):
    """Angles of ``dim / 2`` pairs of channels, computed when asked, in float32 whatever the precision of the model. Holds no tensors."""

    @plain_scalars
    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, positions: Tensor) -> Tensor:
        """(N,) integers -> (N, dim / 2)."""
        return rotary_angles(positions, self.dim, dtype=torch.float32)


class PreNorm(nn.Module):
    """A layer norm before ``fn``."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        return self.fn(self.norm(x), **arguments)


def _check_length(length: int, limit: int) -> None:
    require(
        length <= limit,
        f"x has {length} positions, more than max_seq_len={limit}: shorten it, or build the model with a larger max_seq_len",
    )


def _save_shared_once(module: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in SHARED:
        save_once(module, getattr(module.layers[0][0].fn, name), state_dict, prefix)


def _load_shared(module: Any, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    for name in SHARED:
        load_all(module, getattr(module.layers[0][0].fn, name), state_dict, prefix, rest[-1])


def _check_frequencies(module: FastAttention, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """The published state dict holds the rotary frequencies, which are a formula here: they must be its values, to half precision."""
    *_, errors = rest
    if not isinstance(module.pos_emb, RotaryEmbedding):
        return
    found = state_dict.pop(f"{prefix}pos_emb.freqs", None)
    if found is None:
        return
    expected = rotary_angles(torch.ones(1, dtype=torch.int64, device=found.device), module.pos_emb.dim, dtype=torch.float32)[0]
    if found.shape != expected.shape:
        errors.append(f"{prefix}pos_emb.freqs must have {len(expected)} values for this dim_head, got {tuple(found.shape)}")
    elif not torch.allclose(found.float(), expected, rtol=1e-2, atol=1e-6):
        errors.append(f"{prefix}pos_emb.freqs are not those of rotary positions with base 10000, which this model computes")
