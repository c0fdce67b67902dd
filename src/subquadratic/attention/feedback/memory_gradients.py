"""Gradients of a feedback recurrence's memories, summed by blocks of tokens.

Axes as in `op.py`; R = B H rows of attention.
"""

import torch
from torch import Tensor

from .weights import Shape

BLOCK_TOKENS = 16


class MemoryGradients:
    """Gradients of memories, by blocks of tokens.

    A token's own share for each memory that it saw would be read and written once per token. So the shares of a block of tokens are summed
    in one product when the block is done; only the block's own memories, whose gradients are wanted before that, get theirs at once.

    Each row of attention has its keys' and its values' gradient here as two rows, R' = 2 R, or 2 L R with a map per layer; J tokens' layers
    (or tokens) of a block are summed over.
    """

    def __init__(self, shape: Shape, d_line: Tensor, queries: Tensor, scale: float):
        length, depth, batch, _ = queries.shape
        self.shape, self.length, self.scale = shape, length, scale
        self.each = depth if shape.groups == 1 else 1
        self.queries = self._by_row(queries.view(length, depth, batch * shape.heads, -1))
        self.d_line = d_line.flatten(0, 3)  # (R', T, K)
        self.start = self.low = 0
        self.weights = self.sides = d_line  # set by the first token

    def _by_row(self, x: Tensor) -> Tensor:
        """(..., L, R, X) -> (..., R, L, X); with a map per layer, (..., L R, 1, X)."""
        return x.transpose(-3, -2) if self.shape.groups == 1 else x.flatten(-3, -2)[..., None, :]

    def reach(self, token: int) -> None:
        """Open the token's block if it is the last of one; otherwise bring its own memory's gradient up to date."""
        if (token + 1) % BLOCK_TOKENS == 0 or token + 1 == self.length:
            self.start = token // BLOCK_TOKENS * BLOCK_TOKENS
            self.low = max(self.shape.begin(self.start), self.shape.cut(self.start))
            count = (token + 1 - self.start) * self.each
            rows, _, width = self.d_line.shape
            self.weights = self.d_line.new_zeros(rows, count, self.shape.lead + token + 1 - self.low)  # (R', J, S)
            self.sides = self.d_line.new_zeros(rows, count, width)  # (R', J, K)
            return
        later, place = (token + 1 - self.start) * self.each, self.shape.lead + token
        shares = self.weights[:, None, later:, place - self.low].contiguous()  # strided, each row would be a product of its own
        self.d_line[:, place].add_(torch.bmm(shares, self.sides[:, later:]).squeeze(1))

    def add(self, token: int, begin: int, weights: Tensor, d_scores: Tensor, d_attended: Tensor) -> None:
        """What a token gives to the memories in its window: (L, R, 1, S) twice, and (L, B, H K)."""
        low, end = max(begin, self.shape.cut(token)), self.shape.lead + token
        if low == end:
            return
        at = slice((token - self.start) * self.each, (token + 1 - self.start) * self.each)
        keys, values = self.weights[:, at, low - self.low : end - self.low].chunk(2)
        keys.copy_(self._by_row(d_scores.squeeze(2))[..., low - begin :])
        values.copy_(self._by_row(weights.squeeze(2))[..., low - begin :])
        keys, values = self.sides[:, at].chunk(2)
        torch.mul(self.queries[token], self.scale, out=keys)
        values.copy_(self._by_row(d_attended.view(d_attended.shape[0], -1, values.shape[-1])))

    def leave(self, token: int) -> None:
        """After the first token of a block: sum up for the memories before the block."""
        place = self.shape.lead + token
        if token == self.start and place > self.low:
            self.d_line[:, self.low : place].add_(torch.bmm(self.weights[..., : place - self.low].mT, self.sides))
