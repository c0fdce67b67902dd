"""Attention within a window of the sequence, at cost O(N W).

Two shapes of window. Blocks (local heads of the Performer): the sequence is cut into blocks of W, and a position sees its own block and
the one before (also the one after, when bidirectional). Sliding (``sliding=True``): a position sees the W tokens that end with itself
(W - 1 to each side, when bidirectional).

Axes: B batch, H heads, N length, K head width, W window, G blocks.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.backend import computed_by, is_traced
from ...core.causality import keep_out
from ...core.numerics import in_float32, is_narrow_on_cpu
from ...core.padding import last_places, pack_left
from ...core.state import State, state
from ...core.tracing import in_one_call, may_look
from .cache import append
from .op import softmax_attention
from .parts import may_be_in_parts
from .window_blocks import windows_in_parts
from .window_formula import near, pack_heads, unpack_heads, windows_by_formula
from .window_native import native_windows, suits


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
    if is_narrow_on_cpu(values):
        given = dict[str, Any](window=window, causal=causal, sliding=sliding, mask=mask, dropout=dropout)
        return in_float32(partial(window_attention, **given), queries, keys, values)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        computer = computed_by(None, v, native=dropout == 0.0 and partial(suits, q, k, v, window))
        if computer == "native":
            return native_windows(q, k, v, window, causal, sliding, mask)
        if computer == "formula" or not may_be_in_parts(q, k, v, dropout):
            return windows_by_formula(q, k, v, window, causal, sliding, mask, dropout)
        length = q.shape[2]
        near_all = length <= (window if sliding else 2 * window)  # everything is near: one block
        return windows_in_parts(q, k, v, length if near_all else window, causal, sliding, mask)

    inputs, output = (queries, keys, values), attend(queries, keys, values)
    return keep_out(attend, inputs, output, mask) if causal and dropout == 0.0 else output


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
    if is_traced() or not may_look(seen) or seen.numel() == 0:
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
    places = last_places(mask, span)[:, None, :, None]
    keys, values = (
        torch.cat((past.to(new.dtype), new), dim=2).gather(2, places.expand(-1, past.shape[1], -1, past.shape[3]))
        for past, new in ((state.keys, keys), (state.values, values))
    )
    return WindowState(keys, values, state.seen + mask.sum(dim=1))


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
    attend = partial(_by_places, state=state, window=window, sliding=sliding, mask=mask, dropout=dropout)
    output = attend(queries, keys, values)
    output = keep_out(attend, (queries, keys, values), output, mask) if dropout == 0.0 else output
    return output, _after(state, keys, values, mask)


def _by_places(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    state: WindowState,
    window: int,
    sliding: bool,
    mask: Tensor | None,
    dropout: float,
) -> Tensor:
    batch, _, length, _ = queries.shape
    if mask is None:
        order, packed = None, torch.ones(batch, length, dtype=torch.bool, device=queries.device)
    else:
        order, packed = pack_left(mask)
        queries, keys, values = (pack_heads(tensor, order, packed) for tensor in (queries, keys, values))
    line = torch.cat((state.keys.to(keys.dtype), keys), dim=2)  # the last 2 W, then this piece: all real ones in one run
    content = torch.cat((state.values.to(values.dtype), values), dim=2)
    places = torch.arange(-2 * window, length, device=queries.device) + state.seen[:, None]  # (B, 2 W + N)
    line_mask = (places >= 0) & F.pad(packed, (2 * window, 0), value=True)

    outputs = []
    for start in range(0, length, window):
        stop = min(start + window, length)
        run = slice(start, stop + 2 * window)
        seen = near(places[:, start + 2 * window : stop + 2 * window, None], places[:, None, run], window, True, sliding)
        allowed = (seen & line_mask[:, None, run])[:, None]
        outputs.append(softmax_attention(queries[:, :, start:stop], line[:, :, run], content[:, :, run], allowed=allowed, dropout=dropout))
    output = torch.cat(outputs, dim=2)
    return output if order is None else unpack_heads(output.masked_fill(~packed[:, None, :, None], 0.0), order)


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
