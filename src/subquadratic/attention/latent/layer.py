"""Attention of latents to the tokens before them (Perceiver AR, arXiv 2202.07765, section 3).

A latent is the query of one of a row's last tokens. It attends to its own token and to everything before, in the prefix
or among the latents. Rows are aligned right (:mod:`subquadratic.attention.latent.right_aligned`).

Axes: B batch, N length (latents), S length (keys), D width, H heads, K head width.
"""

import torch
from torch import Tensor

from ...core.errors import require_probability
from ...core.scalars import plain_scalars
from ...core.state import State, state
from ...layers.linear.layer import Linear, maps_of
from ...layers.multi_head import head_width, merge_heads, require_even, rotate, split_heads
from ...layers.streaming import Carry, Streaming
from ..softmax.op import softmax_attention
from .right_aligned import Splice


@state
class LatentCache(State):
    """Keys and values, rotated, aligned right."""

    keys: Tensor  # (B, H, S, K)
    values: Tensor  # (B, H, S, K)

    def join(self, newer: "LatentCache", splice: Splice) -> "LatentCache":
        """This cache and a newer one, as ``splice`` says."""
        return LatentCache(splice(self.keys, newer.keys, dim=2), splice(self.values, newer.values, dim=2))


class LatentAttention(Streaming):
    """Multi-head softmax attention of latents to themselves, or to keys and values read from a longer ``context`` that
    ends where they end.

    Args:
        dim: D.
        heads: H.
        head_dim: K; None: dim / heads.
        rotary: rotary positions on queries and keys.
        dropout: of the attention weights.

    Raises:
        ValueError: for values out of range, or an odd head width with ``rotary``.

    Cost O(N S K) a head; memory O((N + S) K): scores are never kept.
    """

    @plain_scalars
    def __init__(self, dim: int, *, heads: int = 8, head_dim: int | None = None, rotary: bool = True, dropout: float = 0.0):
        super().__init__()
        width = head_width(dim, heads, head_dim)
        require_even(width, rotary)
        require_probability(dropout=dropout)
        self.heads, self.width, self.rotary, self.dropout = heads, width, rotary, dropout
        self.query = Linear(dim, heads * width, bias=False)
        self.key = Linear(dim, heads * width, bias=False)
        self.value = Linear(dim, heads * width, bias=False)
        self.output = Linear(heads * width, dim)

    def forward(
        self,
        x: Tensor,
        *,
        positions: Tensor,
        allowed: Tensor | None = None,
        cache: LatentCache | None = None,
        splice: Splice | None = None,
        carry: Carry | None = None,
    ) -> Tensor:
        """Latents to latents, or to a cache.

        Args:
            x: (B, N, D).
            positions: (N,) or (B, N) int64, negative = an empty slot.
            allowed: (B, 1, N, S) bool from :func:`allowed_pairs`; None when no slot is empty: causal, aligned at the end.
            cache: keys and values to attend to, the last of which is of the last latent's token; None: the latents' own.
            splice, carry: as in ``extend``.

        Returns:
            (B, N, D).
        """
        if carry is not None:
            cache = self._step(x, positions, splice, carry)
        elif cache is None:
            cache = self.read(x, positions)
        queries = self._turn(split_heads(self.query(x), width=self.width), positions)
        dropout = self.dropout if self.training else 0.0
        y = softmax_attention(queries, cache.keys, cache.values, allowed=allowed, causal=allowed is None, dropout=dropout)
        return self.output(merge_heads(y))

    def read(self, context: Tensor, positions: Tensor) -> LatentCache:
        """Keys and values of (B, S, D) tokens at ``positions``, (S,) or (B, S)."""
        keys, values = (split_heads(y, width=self.width) for y in maps_of(context, self.key, self.value))
        return LatentCache(self._turn(keys, positions), values)

    def init_state(self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> LatentCache:
        """No latents yet."""
        nothing = torch.zeros(batch_size, self.heads, 0, self.width, device=device, dtype=dtype)
        return LatentCache(nothing, nothing)

    def extend(
        self, x: Tensor, state: LatentCache, *, positions: Tensor, splice: Splice, allowed: Tensor | None = None
    ) -> tuple[Tensor, LatentCache]:
        """Further latents (B, N, D), which see those of the cache. ``splice`` says how the two are joined for the next
        time."""
        return self._carried(x, state=state, positions=positions, splice=splice, allowed=allowed)

    def _step(self, x: Tensor, positions: Tensor, splice: Splice | None, carry: Carry) -> LatentCache:
        """The keys and values that the latents see; those of the next time are left in ``carry``."""
        assert splice is not None
        old, new = carry.before, self.read(x, positions)
        carry.after = old.join(new, splice)
        pairs = zip(old.tensors(), new.tensors(), strict=True)
        return LatentCache(*(torch.cat((before.to(fresh.dtype), fresh), dim=2) for before, fresh in pairs))

    def _turn(self, x: Tensor, positions: Tensor) -> Tensor:
        return rotate(x, positions.clamp_min(0)) if self.rotary else x
