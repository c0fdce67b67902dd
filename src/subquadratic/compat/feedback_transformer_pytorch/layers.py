"""The layers of the published Feedback Transformer under their names, on a memory that is read where it lies.

Axes: B batch, n tokens of a segment, S keys, D width, H heads, K head width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...attention.feedback.buckets import relative_buckets
from ...attention.feedback.line import attend_runs
from ...core.errors import require_positive, require_probability
from ...core.numerics import exact_dtype
from ...core.scalars import plain_scalars
from ...layers.feed_forward.gelu import gelu
from ...layers.feed_forward.layer import in_one_operation
from ...layers.linear.layer import Linear
from ...layers.multi_head import merge_heads, split_heads
from ...layers.untouched import is_untouched

Window = Sequence[tuple[Tensor, Tensor]]  # keys and values (B, H, S, K)


class RelativePositionBias(nn.Module):
    """One learned number per head and bucket of distance, added to attention scores."""

    @plain_scalars
    def __init__(self, causal: bool = True, num_buckets: int = 32, max_distance: int = 128, heads: int = 8):
        super().__init__()
        self.causal, self.num_buckets, self.max_distance = causal, num_buckets, max_distance
        self.relative_attention_bias = nn.Embedding(num_buckets, heads)

    def forward(self, distance: Tensor) -> Tensor:
        """(n, S) int64, query position minus key position -> (H, n, S) in float32 at least."""
        bias = self.relative_attention_bias(relative_buckets(distance, buckets=self.num_buckets, max_distance=self.max_distance))
        return bias.to(exact_dtype(bias)).permute(2, 0, 1)


class Residual(nn.Module):
    """``fn`` and its input, added."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, n, D) -> (B, n, D)."""
        return self.fn(x, **arguments) + x


class PreNorm(nn.Module):
    """A layer norm before ``fn``."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, n, D) -> (B, n, D)."""
        return self.fn(self.norm(x), **arguments)


class SkipIf(nn.Module):
    """``fn``, or x itself where ``cond`` of the arguments is true."""

    def __init__(self, cond: Callable[..., bool], fn: nn.Module):
        super().__init__()
        self.cond = cond
        self.fn = fn

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, n, D) -> (B, n, D)."""
        return x if self.cond(x, **arguments) else self.fn(x, **arguments)


def memory_is_empty(x: Tensor, *, memory: Window | None, **unused: Any) -> bool:
    """Whether there is nothing to attend to."""
    return memory is None


class GEGLU(nn.Module):
    """The second half, activated, gates the first."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., 2 F) -> (..., F)."""
        x, gate = x.chunk(2, dim=-1)
        return gelu(gate) * x


class FeedForward(nn.Module):
    """D -> mult * D -> D, gated.

    Args:
        dim: D.
        mult: inner width over D.
        dropout: after the activation.

    Raises:
        ValueError: for values out of range.
    """

    @plain_scalars
    def __init__(self, *, dim: int, mult: int = 4, dropout: float = 0.0):
        super().__init__()
        require_positive(dim=dim, mult=mult)
        require_probability(ff_dropout=dropout)
        self.net = nn.Sequential(Linear(dim, dim * mult * 2), GEGLU(), nn.Dropout(dropout), Linear(dim * mult, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, D) -> (B, n, D)."""
        if is_untouched(self.net, nn.Sequential) and len(self.net) == 4 and is_untouched(self.net[1], GEGLU):
            expand, _, dropout, contract = self.net
            fused = in_one_operation(x, expand, dropout, contract, gates_last=True)
            if fused is not None:
                return fused
        return self.net(x)


class Attention(nn.Module):
    """Softmax attention of a segment to the memory and, from two tokens on, causally to itself.

    Args:
        dim: D.
        heads: H.
        dim_head: K.
        dropout: of the weights.

    Raises:
        ValueError: for values out of range.
    """

    @plain_scalars
    def __init__(self, *, dim: int, heads: int = 8, dim_head: int = 64, dropout: float = 0.0):
        super().__init__()
        require_positive(dim=dim, heads=heads, dim_head=dim_head)
        require_probability(attn_dropout=dropout)
        self.heads, self.dim_head = heads, dim_head
        self.scale = dim_head**-0.5
        inner = dim_head * heads
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Window | None, pos_emb: Tensor) -> Tensor:
        """(B, n, D) -> (B, n, D); zeros where there is nothing to attend to.

        Args:
            x: (B, n, D).
            memory: keys and values, or None.
            pos_emb: bias (H, n, S + n') of the scores, n' = n for n > 1 and else 0.
        """
        runs = list(memory or ())
        if x.shape[1] > 1:
            keys, values = self.to_kv(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
            runs.append((keys, values))
        if not runs:
            return torch.zeros_like(x)
        queries = split_heads(self.to_q(x) * self.scale, width=self.dim_head)
        dropout = self.dropout.p if self.dropout.training else 0.0
        return self.to_out(merge_heads(attend_runs(queries, runs, pos_emb, dropout=dropout)))
