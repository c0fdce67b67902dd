"""The published package ``linformer`` (0.2.3): the same names, keywords, parameter names and numbers.

Attention reads the sequence through R = ``k`` slots (arXiv 2006.04768). Since E^T (X W) = (E^T X) W, the sequence is projected first and
only the R slots go through the key and value maps; the attention itself is fused. Kept because trained weights depend on it: ``share_kv``
means that values *are* keys, there is no norm before the logits, and ``reversible`` returns the sum of its two streams. Added: ``mask``,
bool (B, N), True = a real token, everywhere. A padded token is as if it were not there: it reaches no slot, and positions (rows of E, F
and the position table) count real tokens only.

Axes: B batch, N length (queries), S length (keys), D width, H heads, K head width, R slots.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..attention.softmax.op import softmax_attention
from ..core.errors import check_mask, check_sequence, require, require_positive, require_probability
from ..core.padding import pack, pack_left, token_positions, zero_padding
from ..core.scalars import plain_scalars
from .feed_forward import FeedForward
from .sequences import PreNorm, ReversibleSequence, SequentialSequence

__all__ = ["Linformer", "LinformerLM", "LinformerSelfAttention"]


class LinformerLM(nn.Module):
    """Tokens to logits with a :class:`Linformer` between. Bidirectional, whatever its name says: for masked tokens, not for the next one.

    Args:
        num_tokens: vocabulary.
        dim, seq_len, depth, k, heads, dim_head, one_kv_head, share_kv, reversible, dropout: as in :class:`Linformer`.

    Raises:
        ValueError: for sizes out of range; in ``forward``, for input longer than ``seq_len``.
    """

    @plain_scalars
    def __init__(
        self,
        num_tokens: int,
        dim: int,
        seq_len: int,
        depth: int,
        k: int = 256,
        heads: int = 8,
        dim_head: int | None = None,
        one_kv_head: bool = False,
        share_kv: bool = False,
        reversible: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        require_positive(num_tokens=num_tokens, dim=dim, seq_len=seq_len)
        self.token_emb = nn.Embedding(num_tokens, dim)
        self.pos_emb = nn.Embedding(seq_len, dim)
        self.linformer = Linformer(
            dim,
            seq_len,
            depth,
            k=k,
            heads=heads,
            dim_head=dim_head,
            one_kv_head=one_kv_head,
            share_kv=share_kv,
            reversible=reversible,
            dropout=dropout,
        )
        self.to_logits = nn.Linear(dim, num_tokens)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, N) -> logits (B, N, V)."""
        require(x.dim() == 2 and x.shape[1] >= 1, f"x must be tokens (batch, length) with at least one position, got {tuple(x.shape)}")
        batch, length = x.shape
        _check_length(length, self.pos_emb.num_embeddings)
        check_mask(mask, batch, length)
        if mask is not None:
            x = x.masked_fill(~mask, 0)  # whatever id a padded place holds, it need not be in the vocabulary
        embedded = self.token_emb(x) + self.pos_emb(token_positions(mask, length, device=x.device))
        return self.to_logits(self.linformer(embedded, mask=mask))


class Linformer(nn.Module):
    """A stack of Linformer layers, with neither an embedding nor a final norm.

    Args:
        dim: D.
        seq_len: the most positions that the learned projections cover.
        depth: layers.
        k: slots R.
        heads: H.
        dim_head: K; None: dim / heads.
        one_kv_head: one head of keys and values for all heads of queries.
        share_kv: one projection for both, and the values are the keys.
        reversible: activations are recomputed in backward; the result is the sum of two streams.
        dropout: of attention weights and inside the feed-forward layers.

    Raises:
        ValueError: for sizes out of range; in ``forward``, for input longer than ``seq_len``.
    """

    @plain_scalars
    def __init__(
        self,
        dim: int,
        seq_len: int,
        depth: int,
        k: int = 256,
        heads: int = 8,
        dim_head: int | None = None,
        one_kv_head: bool = False,
        share_kv: bool = False,
        reversible: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        require_positive(dim=dim, seq_len=seq_len, depth=depth)
        layers = nn.ModuleList()
        for _ in range(depth):
            attention = LinformerSelfAttention(
                dim, seq_len, k=k, heads=heads, dim_head=dim_head, one_kv_head=one_kv_head, share_kv=share_kv, dropout=dropout
            )
            layers.append(nn.ModuleList((PreNorm(dim, attention), PreNorm(dim, FeedForward(dim, dropout=dropout)))))
        self.dim, self.seq_len = dim, seq_len
        self.net = (ReversibleSequence if reversible else SequentialSequence)(layers, {"mask": ((True, False),) * depth})

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D); zeros where ``mask`` is False."""
        check_sequence(x, self.dim)
        _check_length(x.shape[1], self.seq_len)
        check_mask(mask, *x.shape[:2])
        return zero_padding(self.net(zero_padding(x, mask), mask=mask), mask)


class LinformerSelfAttention(nn.Module):
    """Softmax attention of every position to R slots, which are learned weighted sums of the sequence (or of a context).

    Args:
        dim, seq_len, k, heads, dim_head, one_kv_head, share_kv, dropout: as in :class:`Linformer`.

    Raises:
        ValueError: for sizes out of range; in ``forward``, for keys longer than ``seq_len``. Keywords that do not exist are a TypeError.
    """

    @plain_scalars
    def __init__(
        self,
        dim: int,
        seq_len: int,
        k: int = 256,
        heads: int = 8,
        dim_head: int | None = None,
        one_kv_head: bool = False,
        share_kv: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        require_positive(dim=dim, seq_len=seq_len, k=k, heads=heads, dim_head=dim_head)
        require_probability(dropout=dropout)
        if dim_head is None:
            require(dim % heads == 0, f"dim must be divisible by heads when dim_head is not given, got dim={dim} and heads={heads}")
            dim_head = dim // heads
        self.dim, self.seq_len, self.k, self.heads, self.dim_head = dim, seq_len, k, heads, dim_head
        self.one_kv_head, self.share_kv = one_kv_head, share_kv
        width = dim_head if one_kv_head else dim_head * heads
        self.to_q = nn.Linear(dim, dim_head * heads, bias=False)
        self.to_k = nn.Linear(dim, width, bias=False)
        self.proj_k = nn.Parameter(_projection(seq_len, k))
        if not share_kv:
            self.to_v = nn.Linear(dim, width, bias=False)
            self.proj_v = nn.Parameter(_projection(seq_len, k))
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Linear(dim_head * heads, dim)

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, mask: Tensor | None = None, context_mask: Tensor | None = None
    ) -> Tensor:
        """(B, N, D) -> (B, N, D), zeros where ``mask`` is False.

        Args:
            x: (B, N, D).
            context: (B, S, D) to attend to instead of ``x``.
            mask: (B, N) bool, True = a real token of ``x``.
            context_mask: (B, S), the same for ``context``.
        """
        check_sequence(x, self.dim)
        check_mask(mask, *x.shape[:2])
        require(context is not None or context_mask is None, "context_mask was given without a context: pass mask for x itself")
        x = zero_padding(x, mask)
        source, source_mask = x, mask
        if context is not None:
            check_sequence(context, self.dim, name="context")
            require(context.shape[0] == x.shape[0], f"context must have the batch of x, {x.shape[0]}, got {context.shape[0]}")
            check_mask(context_mask, *context.shape[:2], name="context_mask")
            source, source_mask = zero_padding(context, context_mask), context_mask
        _check_length(source.shape[1], self.seq_len, name="x" if context is None else "context")
        if source_mask is not None:
            source = pack(source, pack_left(source_mask)[0])  # the rows of E and F belong to real tokens, in their order

        queries = self.to_q(x).unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2)  # (B, H, N, K)
        keys = self._slots(source, self.proj_k, self.to_k)
        values = keys if self.share_kv else self._slots(source, self.proj_v, self.to_v)
        output = softmax_attention(queries, keys, values, dropout=self.dropout.p if self.dropout.training else 0.0)
        return zero_padding(self.to_out(output.transpose(1, 2).flatten(2)), mask)

    def _slots(self, source: Tensor, projection: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, S, D) -> (B, H, R, K)."""
        slots = read(projection[: source.shape[1]].T @ source)
        return slots.unflatten(-1, (-1, self.dim_head)).transpose(1, 2).expand(-1, self.heads, -1, -1)


def _projection(length: int, slots: int) -> Tensor:
    return torch.empty(length, slots).uniform_(-(slots**-0.5), slots**-0.5)


def _check_length(length: int, limit: int, *, name: str = "x") -> None:
    """Said before any table is read: an index out of range gives no usable message, on a GPU least of all."""
    require(
        length <= limit, f"{name} has {length} positions, more than seq_len={limit}: shorten it, or build the model with a larger seq_len"
    )
