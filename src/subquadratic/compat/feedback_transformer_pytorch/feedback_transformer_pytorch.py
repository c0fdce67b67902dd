"""The published package ``feedback-transformer-pytorch`` (0.0.11): the same names, keywords, parameter names and numbers.

Kept because trained weights depend on it: memories go through the key-value map without a norm, while a segment's own keys are made of
normed hidden states; the relative bias counts a query's distance from the first *key*, memories included, as if queries began there too; a
segment of one token never attends to itself, so with ``seq_len`` above 1 the result depends on where calls cut the sequence (each call
begins a segment). Mended: one token with no memory yet runs at any ``seq_len`` (it attends to nothing), and the model can be pickled.

Axes: B batch, N length, S memories, D width, H heads, K head width, V vocabulary.
"""

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...attention.feedback.layer import merge_layers
from ...attention.feedback.line import MemoryLine
from ...core.errors import require, require_positive
from ...core.numerics import HIDDEN, exact_dtype
from ...core.scalars import plain_scalars
from .checkpoints import load_names, save_shared_once
from .layers import Attention, FeedForward, PreNorm, RelativePositionBias, Residual, SkipIf, memory_is_empty

__all__ = ["FeedbackTransformer", "Memory"]

Memory = namedtuple("Memory", ["keys", "values"])  # each (B, S, H K)


class FeedbackTransformer(nn.Module):
    """A Feedback Transformer from tokens to logits, causal.

    Args:
        num_tokens: V.
        dim: D.
        depth: layers.
        mem_len: how many memories are kept.
        seq_len: tokens computed in parallel.
        heads: H.
        dim_head: K.
        attn_dropout: of the attention weights.
        ff_dropout: in the feed-forward layers.
        keep_last_hidden: the memory is the last layer's output instead of the learned mixture.

    Raises:
        ValueError: for sizes or probabilities out of range.
    """

    @plain_scalars
    def __init__(
        self,
        *,
        num_tokens: int,
        dim: int,
        depth: int,
        mem_len: int,
        seq_len: int = 2,
        heads: int = 8,
        dim_head: int = 64,
        attn_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        keep_last_hidden: bool = False,
    ):
        super().__init__()
        require_positive(num_tokens=num_tokens, dim=dim, depth=depth, mem_len=mem_len, seq_len=seq_len)
        self.seq_len, self.mem_len = seq_len, mem_len
        self.heads, self.dim_head = heads, dim_head
        self.token_emb = nn.Embedding(num_tokens, dim)
        self.pos_emb = RelativePositionBias(heads=heads)
        self.layers = nn.ModuleList()
        shared: nn.Linear | None = None
        for _ in range(depth):
            attention = Attention(dim=dim, heads=heads, dim_head=dim_head, dropout=attn_dropout)
            shared = attention.to_kv if shared is None else shared
            attention.to_kv = shared
            attend: nn.Module = Residual(PreNorm(dim, attention))
            if seq_len == 1:
                attend = SkipIf(memory_is_empty, attend)
            self.layers.append(nn.ModuleList((attend, Residual(PreNorm(dim, FeedForward(dim=dim, dropout=ff_dropout))))))
        self.layer_weight = nn.Parameter(torch.ones(depth + 1))
        self.shared_kv_proj: Any = shared
        self.keep_last_hidden = keep_last_hidden
        self.to_logits = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_tokens))
        self.register_state_dict_post_hook(save_shared_once)
        self.register_load_state_dict_pre_hook(load_names)

    def forward(self, x: Tensor, memory: Memory | None = None, return_memory: bool = False) -> Tensor | tuple[Tensor, Memory]:
        """Tokens (B, N), N from 0 -> logits (B, N, V).

        Args:
            x: tokens.
            memory: of an earlier call, or any pair (keys, values) of (B, S, H K). Gradients flow into it.
            return_memory: also give the last ``mem_len`` memories.

        Raises:
            ValueError: for wrong shapes.
        """
        require(x.dim() == 2, f"x must be tokens (batch, length), got {tuple(x.shape)}")
        given = self._given(memory, x.shape[0])
        lead = 0 if given is None else given.shape[1]
        x = self.token_emb(x)
        line, token = self._line(x, lead)
        if given is not None:
            token = line.write(given, 0, token)
        weights = self.layer_weight.to(exact_dtype(self.layer_weight)).softmax(dim=0)
        layers: Any = self.layers
        outputs, place, begin = [], lead, 0
        for piece in x.split(self.seq_len, dim=1):
            window = line.read(begin, place, token) if place > begin else None
            bias = self._bias(piece.shape[1], place - begin)
            hidden = [piece]
            for attend, feed_forward in layers:
                piece = feed_forward(attend(piece, memory=window, pos_emb=bias))
                hidden.append(piece)
            outputs.append(piece)
            token = line.write(self._remember(hidden, weights), place, token)
            place += piece.shape[1]
            begin = max(place - self.mem_len, 0)
        output = torch.cat(outputs, dim=1)
        if self.keep_last_hidden:  # the weights mean nothing, but wrappers for several processes want a gradient for each parameter
            output = output + 0 * weights.sum().to(output.dtype)
        logits = self.to_logits(output)
        if not return_memory:
            return logits
        ((keys, values),) = line.read(begin, place, token)
        return logits, Memory(*(part.transpose(1, 2).flatten(2) for part in (keys, values)))

    def _remember(self, hidden: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Keys and values (B, n, 1, 2, H, K) of the memory that merges the input and each layer's output, L + 1 of (B, n, D)."""
        memory = hidden[-1]
        if not self.keep_last_hidden:
            memory = merge_layers(hidden, weights).to(memory.dtype)
        return self.shared_kv_proj(memory).unflatten(-1, (1, 2, self.heads, self.dim_head))

    def _given(self, memory: Memory | None, batch: int) -> Tensor | None:
        """Keys and values (B, S, 1, 2, H, K)."""
        if memory is None:
            return None
        keys, values = memory
        width = self.heads * self.dim_head
        require(
            keys.shape == values.shape and keys.dim() == 3 and keys.shape[0] == batch and keys.shape[2] == width,
            f"memory must be keys and values of (batch, memories, {width}) with batch {batch}, "
            f"got {tuple(keys.shape)} and {tuple(values.shape)}",
        )
        return torch.stack((keys, values), dim=2).unflatten(-1, (self.heads, self.dim_head))[:, :, None]

    def _line(self, x: Tensor, lead: int) -> tuple[MemoryLine, Tensor]:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        line = MemoryLine(x.shape[0], lead + x.shape[1], groups=1, heads=self.heads, width=self.dim_head, device=x.device, dtype=dtype)
        return line, line.start()

    def _bias(self, length: int, memories: int) -> Tensor:
        """(H, length, keys), with the published distances: as if the first query stood at the first key."""
        inside = length if length > 1 else 0
        queries = torch.arange(length, device=self.layer_weight.device)[:, None]
        keys = torch.arange(memories + inside, device=queries.device)
        bias = self.pos_emb(queries - keys)
        return bias.masked_fill(keys > queries + memories, HIDDEN) if inside else bias
