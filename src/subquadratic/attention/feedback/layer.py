"""Attention of a Feedback Transformer (Fan et al., arXiv 2002.09402): every layer reads one memory, made of all layers' outputs of earlier
steps.

The parts here are driven by the backbone's loop over time (`models/feedback_transformer`): a memory exists only once all layers have
run, so none of them is a layer from (B, N, D) to (B, N, D) on its own.

Axes: B batch, N length (queries), S keys, D width, L layers, G key-value maps, H heads, K head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.choices import check_buckets
from ...core.errors import require_positive, require_probability
from ...core.numerics import exact_dtype, no_autocast
from ...core.scalars import plain_scalars
from ...layers.multi_head import head_width, merge_heads, split_heads
from ...layers.untouched import is_untouched
from .buckets import relative_buckets
from .line import attend_runs


class FeedbackAttention(nn.Module):
    """A layer's queries into keys and values that others made, and its output map.

    Args:
        dim: D.
        heads: H.
        head_dim: K; None: dim / heads.
        dropout: of the attention weights.

    Raises:
        ValueError: for values out of range.
    """

    @plain_scalars
    def __init__(self, dim: int, *, heads: int = 8, head_dim: int | None = None, dropout: float = 0.0):
        super().__init__()
        width = head_width(dim, heads, head_dim)
        require_probability(dropout=dropout)
        self.heads, self.width, self.scale, self.dropout = heads, width, width**-0.5, dropout
        self.query = nn.Linear(dim, heads * width, bias=False)
        self.output = nn.Linear(heads * width, dim)

    def queries(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, K), scaled."""
        return split_heads(self.query(x) * self.scale, width=self.width)

    def forward(self, x: Tensor, runs: Sequence[tuple[Tensor, Tensor]], bias: Tensor, *, queries: Tensor | None = None) -> Tensor:
        """Attention of (B, N, D) to keys and values (B, H, S_i, K), together: -> (B, N, D).

        Args:
            bias: as in :func:`attend_runs`.
            queries: what ``queries`` made of ``x`` before; None: made here.
        """
        queries = self.queries(x) if queries is None else queries
        return self.output(merge_heads(attend_runs(queries, runs, bias, dropout=self.dropout if self.training else 0.0)))


class FeedbackMemory(nn.Module):
    """From all layers' outputs of a step to that step's memory, and from a memory to the keys and values that the layers read.

    m = sum over l = 0..L of softmax(w)_l h^l (the paper's eq. 1; l = 0 is the input), then a norm, then a key-value map.

    Args:
        dim: D.
        depth: L.
        heads: H.
        head_dim: K; None: dim / heads.
        share_key_value: one map for all layers; otherwise one each.
        keep_last_hidden: the memory is the last layer's output, without weights to learn.
        norm: of the memory, before the map; None: none.

    Raises:
        ValueError: for values out of range.
    """

    @plain_scalars
    def __init__(
        self,
        dim: int,
        *,
        depth: int,
        heads: int = 8,
        head_dim: int | None = None,
        share_key_value: bool = True,
        keep_last_hidden: bool = False,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        require_positive(depth=depth)
        width = head_width(dim, heads, head_dim)
        self.groups = 1 if share_key_value else depth
        self.shape = (self.groups, 2, heads, width)
        self.layer_weight = None if keep_last_hidden else nn.Parameter(torch.zeros(depth + 1))
        self.norm = norm
        self.key_value = nn.Linear(dim, self.groups * 2 * heads * width, bias=False)

    def weights(self) -> Tensor | None:
        """softmax(w), (L + 1,), in float32 at least; None with ``keep_last_hidden``."""
        return None if self.layer_weight is None else self.layer_weight.to(exact_dtype(self.layer_weight)).softmax(dim=0)

    def forward(self, hidden: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
        """The input and each layer's output, L + 1 of (B, n, D) -> keys and values (B, n, G, 2, H, K). ``weights``: what :meth:`weights`
        gave for all steps; None: asked here."""
        memory, weights = hidden[-1], self.weights() if weights is None else weights
        if weights is not None:
            memory = merge_layers(hidden, weights).to(memory.dtype)
        if self.norm is not None:
            memory = self.norm(memory)
        return self.key_value(memory).unflatten(-1, self.shape)

    def of_layer(self, x: Tensor, layer: int) -> Tensor:
        """Keys and values (B, n, 2, H, K) that ``layer`` takes from its own normed input (B, n, D), for attention inside a segment."""
        if self.groups == 1:
            return self.key_value(x).unflatten(-1, self.shape[1:])
        if not is_untouched(self.key_value, nn.Linear):
            return self.key_value(x).unflatten(-1, self.shape).select(-4, layer)
        rows = self.key_value.weight.unflatten(0, (self.groups, -1))[layer]
        return F.linear(x, rows).unflatten(-1, self.shape[1:])


class RelativeBias(nn.Module):
    """One learned number per head and bucket of distance, added to attention scores; see :func:`relative_buckets`.

    Raises:
        ValueError: for fewer than two buckets, or a ``max_distance`` within the exact half.
    """

    @plain_scalars
    def __init__(self, heads: int, *, buckets: int = 32, max_distance: int = 128):
        super().__init__()
        check_buckets(buckets, max_distance)
        self.buckets, self.max_distance = buckets, max_distance
        self.table = nn.Parameter(torch.randn(buckets, heads) * 0.02)

    def forward(self, distance: Tensor) -> Tensor:
        """(N, S) int64, query position minus key position -> (H, N, S) in float32 at least."""
        found = relative_buckets(distance, buckets=self.buckets, max_distance=self.max_distance)
        return F.embedding(found, self.table.to(exact_dtype(self.table))).permute(2, 0, 1)


def merge_layers(hidden: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Weighted sum of tensors of one shape, in float32 at least."""
    stacked = torch.stack(tuple(hidden)).to(weights.dtype)
    with no_autocast(stacked):
        return (weights[None] @ stacked.flatten(1)).view_as(stacked[0])
