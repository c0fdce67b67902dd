"""A Feedback Transformer's way through time: one segment after another, and what is kept between calls.

Axes: B batch, n tokens of a segment, D width, L layers, G key-value maps, H heads, K head width, M memories, C segment length,
P places of the open segment (C, or none for C = 1), S keys.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...attention.feedback.layer import FeedbackMemory
from ...attention.feedback.line import MemoryLine
from ...attention.feedback.segments import Segments
from ...core.backend import is_transformed
from ...core.errors import require
from ...core.numerics import HIDDEN
from ...core.recomputation import hold, recomputed
from ...core.state import State, state
from ...layers.residual import BranchState
from ...layers.streaming import part_with
from ...layers.untouched import is_untouched
from ..configs.feedback_transformer import FeedbackTransformerConfig
from .stack import Before, Step


class BiasTable(Protocol):
    """The attention bias by place in a segment: :meth:`FeedbackTransformer.bias_table`."""

    def __call__(self, memories: int, inside: int, *, like: Tensor) -> Tensor: ...


@state
class FeedbackState(State):
    """The last memories in the order of time, aligned right to the beginning of the row's open segment; then what that segment has so far.

    Kept as a line of fixed size: an ``extend`` of n tokens writes n places after it and keeps the last M, so nothing grows.
    """

    seen: Tensor  # (B,) int64, real tokens so far; seen mod C of them are in the open segment
    memory: Tensor  # (B, M + P, G, 2, H, K) keys and values of memories, the open segment's last
    open: Tensor | None  # (B, P, L, 2, H, K) keys and values of the open segment's hidden states; None for C = 1
    context: tuple[BranchState, ...]  # per layer, keys and values of the context; empty without cross-attention

    def reset(self, rows: Tensor) -> "FeedbackState":
        """The state with an empty memory where ``rows`` (B,) bool is True: a new document begins there. A context stays."""
        require(
            rows.dtype is torch.bool and rows.shape == self.seen.shape,
            f"rows must be bool {tuple(self.seen.shape)}, True = reset, got {rows.dtype} {tuple(rows.shape)}",
        )
        wipe = rows.to(self.memory.device)[:, None, None, None, None, None]
        return FeedbackState(
            self.seen.masked_fill(rows.to(self.seen.device), 0),
            self.memory.masked_fill(wipe, 0.0),
            None if self.open is None else self.open.masked_fill(wipe, 0.0),
            self.context,
        )


class Loop:
    """One call's way through its segments.

    Columns of the line: with a state before, its M memories and P open places first, where ``lead`` = M is the beginning of the first
    segment; then a place per token. So the memories that a segment sees are always the M columns before it.

    Args:
        stack: the :class:`FeedbackStack`, or an adapter around it, which is what is called.
        contexts: one state per layer; empty: none.
    """

    def __init__(
        self,
        config: FeedbackTransformerConfig,
        stack: nn.Module,
        bias_table: BiasTable,
        segments: Segments,
        state: FeedbackState | None,
        contexts: tuple[BranchState, ...],
    ):
        self.config, self.stack, self.segments, self.state, self.contexts = config, stack, segments, state, contexts
        self.total = segments.slot + segments.x.shape[1]
        self.lead = 0 if state is None else config.memory_length
        self.cut = 0
        x, inner = segments.x, part_with(stack, "ask_first")
        memory = part_with(inner.memory, "of_layer")
        self.memory = inner.memory
        device = x.device.type
        self.line = MemoryLine(
            x.shape[0],
            self.total + (0 if state is None else config.memory_length + config.spare),
            groups=memory.groups,
            heads=config.heads,
            width=config.head_width,
            device=x.device,
            dtype=torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype,
        )
        self.token = self.line.start()
        if state is not None:
            self.token = self.line.write(state.memory, 0, self.token)
        self.memories = min(config.memory_length, self.lead + self.total)
        self.table = bias_table(self.memories, min(config.spare, self.total), like=x)
        self.weights = memory.weights() if is_untouched(inner.memory, FeedbackMemory) else None  # else asked when it is called
        self.first = inner.ask_first(x)
        self.open = None if state is None else state.open
        self.recomputes = config.checkpointing and torch.is_grad_enabled() and not is_transformed()
        self.held = hold(stack) if self.recomputes else None

    def segment(self, start: int) -> Tensor:
        """The tokens (B, n, D) of the segment whose places begin at ``start``; its memories go on the line."""
        if self.config.detach_every and start and start % self.config.detach_every == 0:
            self.token, self.cut = self.line.start(), self.lead + start
        low, high = max(self.segments.slot - start, 0), min(self.total - start, self.config.segment_length)
        columns = slice(start + low - self.segments.slot, start + high - self.segments.slot)
        keep = None if self.segments.mask is None else ~self.segments.mask[:, columns]
        place, cut = self.lead + start, self.cut  # not self.cut below: a recomputation comes when it has moved on
        bias, present = self._bias(start, low, high)

        def compute(x: Tensor, token: Tensor, *first: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
            begin = max(place - self.config.memory_length, 0)
            window = self.line.read(begin, place, token, cut=cut) if place > begin else []
            before = None
            if start == 0 and self.state is not None and self.state.open is not None:
                before = Before(self.state.open, low, keep)
            step = Step(
                window, bias, context=self.contexts, present=present, inside=self.config.spare > 0,
                first=(first[0], first[1]) if first else None, before=before,
            )  # fmt: skip
            y = self.stack(x, step)
            if self.state is not None or start + high < self.total:  # nobody reads the last memory of a call without a state
                token = self.line.write(self.memory(step.hidden, self.weights), place + low, token, keep=keep)
            return y, token, step.entries

        first = () if self.first is None else (self.first[0][:, columns], self.first[1][:, :, columns])
        given = (self.segments.x[:, columns], self.token, *first)
        if self.recomputes:
            y, self.token, inside = recomputed(self.held, compute, *given)
        else:
            y, self.token, inside = compute(*given)
        self._leave_open(start, inside)
        return y

    def _bias(self, start: int, low: int, high: int) -> tuple[Tensor, Tensor | None]:
        """The bias of a segment's places ``low`` to ``high``, and which rows have anything to see."""
        width = min(self.lead + start, self.config.memory_length)
        inside = high if self.config.spare else 0
        bias = self.table[:, low:high, self.memories - width : self.memories + inside]
        if self.state is None or start >= self.config.memory_length:
            return bias, None
        closed = (self.state.seen - self.state.seen % self.config.segment_length)[:, None]
        empty = torch.arange(start, self.config.memory_length + start, device=bias.device) < self.config.memory_length - closed
        bias = bias.masked_fill(F.pad(empty, (0, inside))[:, None, None], HIDDEN)
        return bias, closed[:, 0] > 0 if start == 0 and not inside else None

    def _leave_open(self, start: int, inside: list[Tensor]) -> None:
        """Keep the hidden states' keys and values in rows whose open segment this is."""
        if self.open is None:
            return
        size, end = self.config.segment_length, self.segments.end
        last = self.total // size if end is None else (end // size)[:, None, None, None, None, None]
        if isinstance(last, int) and last != start // size:
            return
        entries = torch.stack(inside, dim=2)
        entries = F.pad(entries, (0, 0) * 4 + (0, size - entries.shape[1]))
        self.open = entries if isinstance(last, int) else torch.where(last == start // size, entries, self.open)

    def after(self, count: Tensor) -> FeedbackState:
        """The state after ``count`` (B,) more tokens: the memories before each row's open segment, and what that has."""
        assert self.state is not None
        size, kept, end = self.config.segment_length, self.state.memory.shape[1], self.segments.end
        if end is None:
            begin = self.total // size * size
            memory = _gathered(self.line.read(begin, begin + kept, self.token, cut=self.cut))
        else:
            memory = _gathered(self.line.read(0, self.line.store.shape[-2], self.token, cut=self.cut))
            places = (end // size * size)[:, None] + torch.arange(kept, device=memory.device)
            memory = memory.gather(1, places[..., None, None, None, None].expand(-1, -1, *memory.shape[2:]))
        return FeedbackState(self.state.seen + count, memory, self.open, self.state.context)


def _gathered(window: list[tuple[Tensor, Tensor]]) -> Tensor:
    """G pairs of (B, H, S, K) -> (B, S, G, 2, H, K), in storage of their own."""
    return torch.stack([torch.stack(pair) for pair in window]).permute(2, 4, 0, 1, 3, 5).contiguous()
