"""Tokens to vectors: table, position embedding, [MASK] embedding, dropout. Shared by all heads.

Axes: B batch, N length, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import check_mask, require, require_positive
from ..core.padding import check_positions, token_positions, zero_padding
from ..core.scalars import plain_scalars
from ..core.tracing import in_one_call, may_look
from ..layers.linear.int8 import Int8Embedding
from ..layers.norms.layer import ScaleNorm
from ..layers.positions import make_positions
from ..layers.streaming import advance
from ..layers.untouched import is_untouched
from ..models.config import BackboneConfig


class TokenEmbedding(nn.Module):
    """(B, N) tokens -> (B, N, D), for a backbone's configuration.

    Args:
        config: of the backbone; ``positions`` says what is added.
        vocab_size: V.
        max_length: the most positions; required for learned and axial positions. None: what the backbone can take.
        maskable: have a [MASK] vector.

    Raises:
        ValueError: for values out of range, or a ``max_length`` over the backbone's own.
    """

    @plain_scalars
    def __init__(self, config: BackboneConfig, *, vocab_size: int, max_length: int | None, maskable: bool = False):
        super().__init__()
        require_positive(vocab_size=vocab_size, max_length=max_length)
        limit = config.length_limit
        require(
            limit is None or max_length is None or max_length <= limit,
            f"max_length must be at most {limit}, the backbone's own, got {max_length}",
        )
        self.max_length = max_length if max_length is not None else limit
        self.vocab_size = vocab_size
        self.table: Any = nn.Embedding(vocab_size, config.dim)
        self.positions = make_positions(config.positions, config.dim, max_length=self.max_length, axial_shape=config.axial_shape)
        held = getattr(self.positions, "max_length", None)
        if held is not None:
            require(
                max_length is None or max_length <= held, f"max_length must be at most {held}, what axial_shape holds, got {max_length}"
            )
            self.max_length = held if self.max_length is None else self.max_length
        self.mask_vector = nn.Parameter(torch.randn(config.dim) * config.dim**-0.5) if maskable else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        tokens: Tensor | None,
        *,
        mask: Tensor | None = None,
        masked: Tensor | None = None,
        seen: Tensor | None = None,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """Embed tokens.

        Args:
            tokens: (B, N) int64 in [0, V); anything at padded positions. None: ``vectors`` stand in their place.
            mask: (B, N) bool, True = real token.
            masked: (B, N) bool, True = hidden: the [MASK] vector stands there instead (bidirectional models).
            seen: (B,) int64, real tokens before this piece.
            vectors: (B, N, D), as the table would give them; to them, too, come positions and dropout.

        Returns:
            (B, N, D), zero at padded positions.

        Raises:
            ValueError: for wrong shapes, tokens out of range, or more positions than ``max_length``.
        """
        if vectors is not None:
            check_mask(mask, vectors.shape[0], vectors.shape[1])
        x = self._looked_up(tokens, mask) if vectors is None else zero_padding(vectors, mask)
        check_mask(masked, x.shape[0], x.shape[1], name="masked")
        positions = token_positions(mask, x.shape[1], seen, device=x.device)
        if self.max_length is not None:
            check_positions(positions, seen, self.max_length)
        if masked is not None:
            if self.mask_vector is None:
                raise ValueError("masked is for bidirectional language models: a causal one predicts the next token, and has no [MASK]")
            x = torch.where(masked[..., None], self.mask_vector.to(x.dtype), x)
        if self.positions is not None:
            x = x + self.positions(positions).to(x.dtype)
        return zero_padding(self.dropout(x), mask)

    def _looked_up(self, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        """(B, N) tokens -> (B, N, D)."""
        require(
            tokens is not None and tokens.dim() == 2 and tokens.shape[1] >= 1,
            f"tokens must be (batch, length) with length at least 1, got {None if tokens is None else tuple(tokens.shape)}",
        )
        assert tokens is not None
        require(not tokens.is_floating_point() and tokens.dtype != torch.bool, f"tokens must be integers, got dtype {tokens.dtype}")
        check_mask(mask, tokens.shape[0], tokens.shape[1])
        if mask is not None:
            tokens = tokens.masked_fill(~mask, 0)
        if may_look(tokens):
            check_tokens(tokens, self.vocab_size)
        return self.table(tokens)

    def output_weight(self, hidden: Tensor) -> Tensor | Callable[[Tensor], Tensor]:
        """(V, D), for an output map of (..., D) that is tied to the table: its weight, or what the module that stands in its place makes of
        every token: with what an adapter adds, and with weights that are loaded only when it is called. Of a table in 8 bits, the map
        itself, (..., D) -> (..., V)."""
        if is_untouched(self.table, Int8Embedding):
            return self.table.logits
        if type(self.table) is nn.Embedding and self.table.weight.device == hidden.device:
            return self.table.weight
        return self.table(torch.arange(self.vocab_size, device=hidden.device))


def read(
    embedding: nn.Module,
    backbone: nn.Module,
    tokens: Tensor | None,
    *,
    mask: Tensor | None = None,
    masked: Tensor | None = None,
    vectors: Tensor | None = None,
    state: Any = None,
    **arguments: Any,
) -> tuple[Tensor, Any]:
    """What a backbone makes of embedded tokens, (B, N', D), and its state after; None for a whole sequence.

    Args:
        tokens, mask, masked, vectors: as in :class:`TokenEmbedding`.
        state: of a stream, whose next tokens these are: ``backbone`` and ``seen``.
        arguments: of the backbone's ``forward``.
    """
    if state is None:
        return backbone(embedding(tokens, mask=mask, masked=masked, vectors=vectors), mask=mask, **arguments), None
    require(masked is None, "masked is for whole sequences of a bidirectional model, not for a stream")
    x = embedding(tokens, mask=mask, seen=state.seen, vectors=vectors)
    return advance(backbone, x, state=state.backbone, mask=mask, **arguments)


@in_one_call
def check_tokens(tokens: Tensor, vocab_size: int) -> None:
    """Raises ValueError for a token that is not below ``vocab_size``, or negative. Not while a CUDA graph is captured: looking at a number
    would break that off."""
    if not tokens.numel() or (tokens.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    low, high = (int(value) for value in tokens.aminmax())
    require(low >= 0 and high < vocab_size, f"tokens must be at least 0 and less than vocab_size={vocab_size}, got {low} to {high}")


def final_norm(config: BackboneConfig) -> nn.Module:
    """The norm before a head: ScaleNorm with norm="scale", else LayerNorm (under ReZero too, as published)."""
    return ScaleNorm(config.dim) if config.norm == "scale" else nn.LayerNorm(config.dim)
