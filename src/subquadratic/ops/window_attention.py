"""Attention within a window of the sequence, at cost O(N W).

Two shapes of window. Blocks (local heads of the Performer): the sequence is cut into blocks of W, and a position sees its own block and
the one before (also the one after, when bidirectional). Sliding (``sliding=True``): a position sees the W tokens that end with itself
(W - 1 to each side, when bidirectional).

On a CPU no block's keys are copied: a block attends to itself and to each neighbour by calls of their own, on views of the tensors as they
lie, and the outputs merge.

Axes: B batch, H heads, N length, K head width, W window, G blocks.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .backend import is_traced, needs_gradient
from .causality import keep_out
from .once import once_differentiable
from .padding import pack, pack_left, unpack
from .recording import in_one_call
from .softmax_attention import HIDDEN, append, dense_channels, in_parts, merge_, part, part_gradients, softmax_attention
from .state import State, state

RUN = 2**17  # numbers of a tensor that are worked on at a time where blocks look at their neighbours: what stays in a cache


@state
class WindowState(State):
    """The keys and values of the last 2 W real tokens, the latest at the end."""

    keys: Tensor  # (B, H, 2 W, K)
    values: Tensor  # (B, H, 2 W, K)
    seen: Tensor  # (B,) int64, real tokens so far


def empty_window(
    batch: int, heads: int, window: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> WindowState:
    """Nothing seen yet."""
    zeros = torch.zeros(batch, heads, 2 * window, width, device=device, dtype=dtype)
    return WindowState(zeros, zeros.clone(), torch.zeros(batch, dtype=torch.int64, device=device))


def window_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    window: int,
    causal: bool,
    sliding: bool = False,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of each position to the window around it.

    Args:
        queries, keys, values: (B, H, N, K).
        window: W.
        causal: no position after a query is seen.
        sliding: a window that moves with the position, instead of blocks.
        mask: (B, N) bool, True = real token. Windows count real tokens only.
        dropout: of the weights; 0 outside training.

    Returns:
        (B, H, N, K); zeros for padded positions.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _attend(q, k, v, window, causal, sliding, mask, dropout)

    inputs, output = (queries, keys, values), attend(queries, keys, values)
    return keep_out(attend, inputs, output, mask) if causal and dropout == 0.0 else output


def _attend(q: Tensor, k: Tensor, v: Tensor, window: int, causal: bool, sliding: bool, mask: Tensor | None, dropout: float) -> Tensor:
    if not in_parts(q, k, v, dropout):
        return _plain(q, k, v, window, causal, sliding, mask, dropout)
    if q.shape[2] <= (window if sliding else 2 * window):
        window = q.shape[2]  # everything is near: one block
    if needs_gradient(q, k, v):
        return _Windows.apply(q, k, v, window, causal, sliding, mask)
    layout = _Layout(q.shape, window, mask)
    cut = (layout.cut(q), layout.cut(k), layout.cut(v))
    return layout.join(_forward(*cut, _looks(layout, q.dtype, causal, sliding), layout.batch)[0])


class _Layout:
    """Where the tokens of (B, H, N, K) stand in blocks (B G, H, W, K): the real ones of each row first, in their order."""

    def __init__(self, shape: torch.Size, window: int, mask: Tensor | None):
        self.batch, self.heads, self.length, self.width = shape
        self.window, self.padding = window, -self.length % window
        self.real = self._order = None
        if mask is not None:
            order, packed = (F.pad(tensor, (0, self.padding)) for tensor in pack_left(mask))
            rows = torch.arange(self.batch, device=mask.device)[:, None]
            there = (order + rows * self.length).flatten()  # the token of each place
            back = ((mask.cumsum(dim=1) - 1).clamp_min_(0) + rows * order.shape[1]).flatten()  # the place of each real token
            self._order, self._blank = (there, back), (~packed.flatten()[:, None, None], ~mask.flatten()[:, None, None])
            self.real = packed
        elif self.padding:
            self.real = torch.ones(1, self.length, dtype=torch.bool)
            self.real = F.pad(self.real, (0, self.padding)).expand(self.batch, -1)

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


def _looks(layout: _Layout, dtype: torch.dtype, causal: bool, sliding: bool) -> list[_Look]:
    """First itself, then its neighbours. Padding comes after all real tokens: causality hides it, and the block before one that holds a
    real token is full."""
    window, dtype = layout.window, torch.promote_types(dtype, torch.float32)
    earlier = later = padding = None
    if sliding and layout.length > window:
        square = torch.full((1, 1, window, window), HIDDEN, dtype=dtype)
        earlier, later = square.tril(), square.triu()
    if causal:
        return [_Look(0, True, None), _Look(-1, False, earlier)]
    if layout.real is not None:
        hidden = ~layout.real.reshape(-1, 1, 1, window)
        padding = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, HIDDEN)
        after = padding.roll(-1, 0)  # what follows the last block of a row is never looked at
        later = after if later is None else torch.minimum(later, after)
    return [_Look(0, False, padding), _Look(-1, False, earlier), _Look(1, False, later)]


def _runs(blocks: Tensor, shift: int, batch: int) -> Iterator[tuple[slice, slice]]:
    """Runs of blocks, and the neighbours of these, row by row of the batch."""
    count, size = blocks.shape[0] // batch, max(1, RUN // blocks[0].numel())
    for row in range(0, batch * count, count):
        first, last = row + max(-shift, 0), row + count - max(shift, 0)
        for start in range(first, last, size):
            stop = min(start + size, last)
            yield slice(start, stop), slice(start + shift, stop + shift)


def _of(bias: Tensor | None, here: slice) -> Tensor | None:
    return bias if bias is None or bias.shape[0] == 1 else bias[here]


def _forward(queries: Tensor, keys: Tensor, values: Tensor, looks: list[_Look], batch: int) -> tuple[Tensor, Tensor]:
    """Blocks (B G, H, W, K) -> the output in blocks, and the logarithm of its normaliser (B G, H, W)."""
    itself, *neighbours = looks
    output, normaliser = part(queries, keys, values, causal=itself.causal, bias=itself.bias)
    for look in neighbours:
        for here, there in _runs(queries, look.shift, batch):
            merge_(output[here], normaliser[here], *part(queries[here], keys[there], values[there], bias=_of(look.bias, here)))
    return output, normaliser


class _Windows(torch.autograd.Function):
    """Keeps the inputs, the output and one number a query; everything else is made again in backward."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, window: int, causal: bool, sliding: bool, mask: Tensor | None
    ) -> Tensor:
        ctx.layout = layout = _Layout(queries.shape, window, mask)
        blocks = (layout.cut(queries), layout.cut(keys), layout.cut(values))
        ctx.looks = looks = _looks(layout, queries.dtype, causal, sliding)
        output, normaliser = _forward(*blocks, looks, layout.batch)
        ctx.save_for_backward(*blocks, output, normaliser)
        return layout.join(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, output, normaliser = ctx.saved_tensors
        gradient = ctx.layout.cut(gradient)
        itself, *neighbours = ctx.looks
        everything = (gradient, queries, keys, values, output, normaliser)
        d_queries, d_keys, d_values = part_gradients(*everything, causal=itself.causal, bias=itself.bias)
        for look in neighbours:
            for here, there in _runs(queries, look.shift, ctx.layout.batch):
                known = (output[here], normaliser[here])
                more = part_gradients(gradient[here], queries[here], keys[there], values[there], *known, bias=_of(look.bias, here))
                for total, places, added in zip((d_queries, d_keys, d_values), (here, there, there), more, strict=True):
                    total[places] += added
        return *map(ctx.layout.join, (d_queries, d_keys, d_values)), None, None, None, None


def _plain(
    queries: Tensor, keys: Tensor, values: Tensor, window: int, causal: bool, sliding: bool, mask: Tensor | None, dropout: float
) -> Tensor:
    """In operations that autograd and compilers follow."""
    if mask is None:
        return _plain_blocks(queries, keys, values, window, causal, sliding, None, dropout)
    order, packed = pack_left(mask)
    queries, keys, values = (_pack_heads(tensor, order, packed) for tensor in (queries, keys, values))
    output = _plain_blocks(queries, keys, values, window, causal, sliding, packed, dropout)
    return _unpack_heads(output.masked_fill(~packed[:, None, :, None], 0.0), order)


def _plain_blocks(
    queries: Tensor, keys: Tensor, values: Tensor, window: int, causal: bool, sliding: bool, mask: Tensor | None, dropout: float
) -> Tensor:
    """One masked call, with the keys of a block's neighbours beside its own. ``mask``: real tokens first."""
    batch, heads, length, _width = queries.shape
    padding = -length % window
    queries, keys, values = (F.pad(tensor, (0, 0, 0, padding)).unflatten(2, (-1, window)) for tensor in (queries, keys, values))
    blocks = queries.shape[2]
    places = torch.arange(blocks * window, device=queries.device).unflatten(0, (blocks, window))
    real = places < length if mask is None else F.pad(mask, (0, padding)).unflatten(1, (blocks, window))[:, None]  # (G, W) or (B, 1, G, W)
    sides = (1, 0) if causal else (1, 1)
    keys, values = (_look_around(tensor, *sides, dim=2) for tensor in (keys, values))  # (B, H, G, 2 W or 3 W, K)
    key_places = _look_around(places, *sides, dim=0, fill=-(10**9))  # a place beyond either end is nobody's neighbour
    allowed = _look_around(real, *sides, dim=real.dim() - 2)[..., None, :] & _near(
        places[..., :, None], key_places[..., None, :], window, causal, sliding
    )
    allowed = allowed.expand(batch, heads, -1, -1, -1) if allowed.dim() == 5 else allowed.expand(1, heads, -1, -1, -1)
    output = softmax_attention(
        queries.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), allowed=allowed.flatten(1, 2), dropout=dropout
    )  # blocks as heads
    return output.unflatten(1, (heads, blocks)).flatten(2, 3)[..., :length, :]


def extend_window_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    state: WindowState,
    *,
    sliding: bool = False,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, WindowState]:
    """Causal :func:`window_attention` of the next piece, in steps of W positions, with the window before it in ``state``."""
    window, length = state.keys.shape[2] // 2, queries.shape[2]
    if length == 1 and mask is None and state.seen.device.type == "cpu" and not is_traced():
        output, *after = _extend_by_one(queries, keys, values, state.keys, state.values, state.seen, window, sliding, dropout)
        return output, WindowState(*after)
    before = _rows_in_step(state.seen) if length > window else None
    if before is None:
        return _extend_by_places(queries, keys, values, state, window, sliding, mask, dropout)
    # As the end of a sequence that begins where a block does.
    read = min(before, window - 1 if sliding else before % window + window)
    line = [
        torch.cat((past[:, :, past.shape[2] - read :].to(new.dtype), new), dim=2)
        for past, new in ((state.keys, keys), (state.values, values))
    ]
    output = window_attention(
        F.pad(queries, (0, 0, read, 0)),
        *line,
        window=window,
        causal=True,
        sliding=sliding,
        mask=None if mask is None else F.pad(mask, (read, 0), value=True),
        dropout=dropout,
    )
    return output[:, :, read:], _after(state, keys, values, mask)


@in_one_call
def _extend_by_one(
    queries: Tensor, keys: Tensor, values: Tensor, past: Tensor, content: Tensor, seen: Tensor, window: int, sliding: bool, dropout: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where all rows are as far, one window serves all: the output, keys and values of the window, tokens seen."""
    before = _rows_in_step(seen)
    if before is None:
        state = WindowState(past, content, seen)
        output, state = _extend_by_places(queries, keys, values, state, window, sliding, None, dropout)
        return output, state.keys, state.values, state.seen
    past, content = append(past, keys, drop=1), append(content, values, drop=1)
    near = min(before + 1, window if sliding else before % window + window + 1)
    return softmax_attention(queries, past[:, :, -near:], content[:, :, -near:], dropout=dropout), past, content, seen + 1


def _rows_in_step(seen: Tensor) -> int | None:
    """How many real tokens all rows have seen; None if they differ, or while operations are traced, when nobody knows."""
    if is_traced() or seen.numel() == 0:
        return None
    first = int(seen[0])
    return first if seen.numel() == 1 or bool((seen == first).all()) else None


def _after(state: WindowState, keys: Tensor, values: Tensor, mask: Tensor | None) -> WindowState:
    """The last 2 W real tokens of those in the state and the new ones."""
    span, length = state.keys.shape[2], keys.shape[2]
    if mask is None:
        keep = min(span, length)
        keys, values = (
            torch.cat((past[:, :, keep:].to(new.dtype), new[:, :, length - keep :]), dim=2)
            for past, new in ((state.keys, keys), (state.values, values))
        )
        return WindowState(keys, values, state.seen + length)
    added, real = mask.sum(dim=1), F.pad(mask, (span, 0), value=True)
    order, _ = pack_left(real)
    places = order.gather(1, added[:, None] + torch.arange(span, device=mask.device))[:, None, :, None]
    keys, values = (
        torch.cat((past.to(new.dtype), new), dim=2).gather(2, places.expand(-1, past.shape[1], -1, past.shape[3]))
        for past, new in ((state.keys, keys), (state.values, values))
    )
    return WindowState(keys, values, state.seen + added)


def _extend_by_places(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    state: WindowState,
    window: int,
    sliding: bool,
    mask: Tensor | None,
    dropout: float,
) -> tuple[Tensor, WindowState]:
    """W positions at a time, each row by its own places."""
    batch, _, length, _ = queries.shape
    if mask is None:
        order, packed = None, torch.ones(batch, length, dtype=torch.bool, device=queries.device)
    else:
        order, packed = pack_left(mask)
        queries, keys, values = (_pack_heads(tensor, order, packed) for tensor in (queries, keys, values))
    line = torch.cat((state.keys.to(keys.dtype), keys), dim=2)  # the last 2 W, then this piece: all real ones in one run
    content = torch.cat((state.values.to(values.dtype), values), dim=2)
    places = torch.arange(-2 * window, length, device=queries.device) + state.seen[:, None]  # (B, 2 W + N)
    real = (places >= 0) & F.pad(packed, (2 * window, 0), value=True)

    outputs = []
    for start in range(0, length, window):
        stop = min(start + window, length)
        run = slice(start, stop + 2 * window)
        near = _near(places[:, start + 2 * window : stop + 2 * window, None], places[:, None, run], window, True, sliding)
        allowed = (near & real[:, None, run])[:, None]
        outputs.append(softmax_attention(queries[:, :, start:stop], line[:, :, run], content[:, :, run], allowed=allowed, dropout=dropout))
    output = torch.cat(outputs, dim=2)
    if order is None:
        return output, _after(state, keys, values, None)
    output = _unpack_heads(output.masked_fill(~packed[:, None, :, None], 0.0), order)
    return output, _after(state, keys, values, packed)


def _near(query_places: Tensor, key_places: Tensor, window: int, causal: bool, sliding: bool) -> Tensor:
    """Whether a query at one place sees a key at another."""
    if sliding:
        distance = query_places - key_places
        return (distance >= 0) & (distance < window) if causal else distance.abs() < window
    blocks = query_places.div(window, rounding_mode="floor") - key_places.div(window, rounding_mode="floor")
    return (blocks <= 1) & (key_places <= query_places) if causal else blocks.abs() <= 1


def _look_around(tensor: Tensor, before: int, after: int, *, dim: int, fill: float = 0) -> Tensor:
    """Each block with its neighbours: (..., G, W, ...) -> (..., G, (before + 1 + after) W, ...)."""
    blocks = tensor.shape[dim]
    edge = torch.full_like(tensor.narrow(dim, 0, 1), fill)
    line = torch.cat([edge] * before + [tensor] + [edge] * after, dim=dim)
    return torch.cat([line.narrow(dim, shift, blocks) for shift in range(before + 1 + after)], dim=dim + 1)


def _pack_heads(tensor: Tensor, order: Tensor, packed: Tensor) -> Tensor:
    """Real tokens first, and zeros after them, whatever stood there."""
    rows = pack(tensor.transpose(1, 2).flatten(2), order).masked_fill(~packed[..., None], 0.0)
    return rows.unflatten(2, (tensor.shape[1], -1)).transpose(1, 2)


def _unpack_heads(tensor: Tensor, order: Tensor) -> Tensor:
    return unpack(tensor.transpose(1, 2).flatten(2), order).unflatten(2, (tensor.shape[1], -1)).transpose(1, 2)


def window_allowed_reference(length: int, window: int, causal: bool, sliding: bool) -> Tensor:
    """(N, N) bool: who sees whom, pair by pair. The oracle of the tests, with ``softmax_attention_reference``."""
    rows = []
    for i in range(length):
        if sliding:
            rows.append([(0 <= i - j < window) if causal else abs(i - j) < window for j in range(length)])
        else:
            rows.append(
                [(j <= i and i // window - j // window <= 1) if causal else abs(i // window - j // window) <= 1 for j in range(length)]
            )
    return torch.tensor(rows)
