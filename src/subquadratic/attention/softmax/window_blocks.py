"""Attention within a window, block by block, with a backward of its own; for CPUs.

No block's keys are copied: a block attends to itself and to each neighbour by calls of their own, on views of the tensors as they lie, and
the outputs merge.

Axes: B batch, H heads, N length, K head width, W window, G blocks.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.layout import dense_channels
from ...core.numerics import HIDDEN
from ...core.padding import pack_left
from ...core.tracing import needs_gradient
from ...kernels.derivatives import differentiable, keep, kept
from .parts import merge_, part, part_gradients
from .window_formula import windows_by_formula

RUN_NUMBERS = 2**17  # of a tensor that are worked on at a time where blocks look at their neighbours: what stays in a cache


def windows_in_parts(
    queries: Tensor, keys: Tensor, values: Tensor, window: int, causal: bool, sliding: bool, mask: Tensor | None
) -> Tensor:
    """Attention of each position to the window around it, as :func:`~subquadratic.attention.softmax.window.window_attention`."""
    layout, inputs = Layout(queries.shape, window, mask), (queries, keys, values)
    looks = _looks(layout, queries.dtype, causal, sliding)
    if needs_gradient(*inputs):
        blocks = (_Cut.apply(x, layout) for x in inputs)
        return _Join.apply(_Windows.apply(*blocks, layout, looks, causal, sliding), layout)
    return layout.join(_forward(layout.cut(queries), layout.cut(keys), layout.cut(values), looks, layout.batch)[0])


class Layout:
    """Where the tokens of (B, H, N, K) stand in blocks (B G, H, W, K): the real ones of each row first, in their order."""

    def __init__(self, shape: torch.Size, window: int, mask: Tensor | None):
        self.batch, self.heads, self.length, self.width = shape
        self.window, self.padding, self.mask = window, -self.length % window, mask
        self.block_mask = self._order = None
        if mask is not None:
            order, packed = (F.pad(tensor, (0, self.padding)) for tensor in pack_left(mask))
            rows = torch.arange(self.batch, device=mask.device)[:, None]
            there = (order + rows * self.length).flatten()  # the token of each place
            back = ((mask.cumsum(dim=1) - 1).clamp_min_(0) + rows * order.shape[1]).flatten()  # the place of each real token
            self._order, self._blank = (there, back), (~packed.flatten()[:, None, None], ~mask.flatten()[:, None, None])
            self.block_mask = packed
        elif self.padding:
            filled = F.pad(torch.ones(1, self.length, dtype=torch.bool), (0, self.padding))
            self.block_mask = filled.expand(self.batch, -1)

    def cut(self, tensor: Tensor) -> Tensor:
        """(B, H, N, K) -> (B G, H, W, K), zeros where there is no real token; without mask and padding a view, where heads lie side by
        side, as models have them."""
        rows = tensor.transpose(1, 2)
        if self._order is not None:
            rows = rows.flatten(0, 1).index_select(0, self._order[0]).masked_fill_(self._blank[0], 0.0).unflatten(0, (self.batch, -1))
        elif self.padding:
            rows = F.pad(rows, (0, 0, 0, 0, 0, self.padding))
        return dense_channels(rows.unflatten(1, (-1, self.window)).flatten(0, 1).transpose(1, 2))

    def join(self, blocks: Tensor) -> Tensor:
        """Undo :meth:`cut`; zeros for padded positions."""
        rows = blocks.transpose(1, 2)
        if self._order is None:
            return rows.reshape(self.batch, -1, self.heads, self.width)[:, : self.length].transpose(1, 2)
        rows = rows.reshape(-1, self.heads, self.width).index_select(0, self._order[1]).masked_fill_(self._blank[1], 0.0)
        return rows.unflatten(0, (self.batch, -1)).transpose(1, 2)


class _Look(NamedTuple):
    """The keys of which block every block looks at."""

    shift: int  # -1 the block before, 0 itself, 1 the one after
    causal: bool
    bias: Tensor | None  # (1 or B G, 1, 1 or W, W) added to the logits


def _looks(layout: Layout, dtype: torch.dtype, causal: bool, sliding: bool) -> list[_Look]:
    """First itself, then its neighbours. Padding comes after all real tokens: causality hides it, and the block before one that holds a
    real token is full."""
    window, dtype = layout.window, torch.promote_types(dtype, torch.float32)
    earlier = later = padding = None
    if sliding and layout.length > window:
        square = torch.full((1, 1, window, window), HIDDEN, dtype=dtype)
        earlier, later = square.tril(), square.triu()
    if causal:
        return [_Look(0, True, None), _Look(-1, False, earlier)]
    if layout.block_mask is not None:
        hidden = ~layout.block_mask.reshape(-1, 1, 1, window)
        padding = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, HIDDEN)
        after = padding.roll(-1, 0)  # what follows the last block of a row is never looked at
        later = after if later is None else torch.minimum(later, after)
    return [_Look(0, False, padding), _Look(-1, False, earlier), _Look(1, False, later)]


def _runs(blocks: Tensor, shift: int, batch: int) -> Iterator[tuple[slice, slice]]:
    """Runs of blocks, and the neighbours of these, row by row of the batch."""
    count, size = blocks.shape[0] // batch, max(1, RUN_NUMBERS // blocks[0].numel())
    for row in range(0, batch * count, count):
        first, last = row + max(-shift, 0), row + count - max(shift, 0)
        for start in range(first, last, size):
            stop = min(start + size, last)
            yield slice(start, stop), slice(start + shift, stop + shift)


def _bias_of(bias: Tensor | None, here: slice) -> Tensor | None:
    return bias if bias is None or bias.shape[0] == 1 else bias[here]


def _forward(queries: Tensor, keys: Tensor, values: Tensor, looks: list[_Look], batch: int) -> tuple[Tensor, Tensor]:
    """Blocks (B G, H, W, K) -> the output in blocks, and the logarithm of its normaliser (B G, H, W)."""
    itself, *neighbours = looks
    output, normaliser = part(queries, keys, values, causal=itself.causal, bias=itself.bias)
    for look in neighbours:
        for here, there in _runs(queries, look.shift, batch):
            merge_(output[here], normaliser[here], *part(queries[here], keys[there], values[there], bias=_bias_of(look.bias, here)))
    return output, normaliser


class _Cut(torch.autograd.Function):
    """``layout.cut``, whose gradient is ``layout.join`` of it, and the other way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        blocks = layout.cut(x)
        return blocks.view_as(blocks) if blocks is x else blocks

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.layout.join(gradient), None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blocks: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return layout.join(blocks)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.layout.cut(gradient), None


def _composition(
    queries: Tensor, keys: Tensor, values: Tensor, layout: Layout, _: list[_Look], causal: bool, sliding: bool
) -> Tensor:
    queries, keys, values = layout.join(queries), layout.join(keys), layout.join(values)
    return layout.cut(windows_by_formula(queries, keys, values, layout.window, causal, sliding, layout.mask, 0.0))


class _Windows(torch.autograd.Function):
    """Of blocks. Keeps them, the output and one number a query; everything else is made again in backward."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, layout: Layout, looks: list[_Look], causal: bool, sliding: bool
    ) -> Tensor:
        output, normaliser = _forward(queries, keys, values, looks, layout.batch)
        keep(ctx, (queries, keys, values, layout, looks, causal, sliding), output, normaliser)
        return output

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (queries, keys, values, layout, looks, *_), (output, normaliser) = kept(ctx)
        gradient = dense_channels(gradient)
        itself, *neighbours = looks
        everything = (gradient, queries, keys, values, output, normaliser)
        d_queries, d_keys, d_values = part_gradients(*everything, causal=itself.causal, bias=itself.bias)
        for look in neighbours:
            for here, there in _runs(queries, look.shift, layout.batch):
                known = (output[here], normaliser[here])
                more = part_gradients(gradient[here], queries[here], keys[there], values[there], *known, bias=_bias_of(look.bias, here))
                for total, places, added in zip((d_queries, d_keys, d_values), (here, there, there), more, strict=True):
                    total[places] += added
        return d_queries, d_keys, d_values, None, None, None, None
