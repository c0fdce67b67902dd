"""The memory of a Feedback Transformer as one line in time, and attention that reads it where it lies.

A recurrent step writes one place and reads the places before it. Joining tensors at each step would keep a copy of the whole memory per
step for backward; here a place is written once into storage made at the start, readers get views of it, and their gradients are summed into
one buffer.

Axes: B batch, N length (queries), S keys, G key-value maps, H heads, K head width, T places in the line.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.backend import is_traced
from ...core.numerics import exact_dtype
from ...kernels.derivatives import is_followed


class MemoryLine:
    """Keys and values of T places, all zero at first, each written at most once after the start.

    Order between writes and reads, which backward needs, is carried by a token: a scalar that ``write`` gives and ``read`` takes. Where
    operations are traced, and under other transforms, the line is made anew by each write instead.

    Args:
        batch, places, groups, heads, width: B, T, G, H, K.
        device, dtype: of the storage; gradients are summed in float32 at least.
    """

    def __init__(self, batch: int, places: int, *, groups: int, heads: int, width: int, device: torch.device, dtype: torch.dtype):
        self.store = torch.zeros(groups, 2, batch, heads, places, width, device=device, dtype=dtype)
        self._gradient: Tensor | None = None
        self._backward = -1

    def start(self) -> Tensor:
        """The token before any write."""
        return self.store.new_zeros(())

    def write(self, entries: Tensor, place: int, token: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Put (B, n, G, 2, H, K) at ``place`` and after; where ``keep`` (B, n) is True, what is there stays. Gives the next token."""
        if is_traced():  # what follows values follows no side effects, and a compiler does its own planning of storage
            target, source = self._match(entries, place)
            source = source if keep is None else torch.where(keep[:, None, :, None], target, source)
            self.store = self.store.slice_scatter(source, dim=-2, start=place, end=place + entries.shape[1])
            return token
        if torch.is_grad_enabled() and (entries.requires_grad or token.requires_grad):
            return _Write.apply(entries, token, self, place, keep)
        self.put(entries, place, keep)
        return token

    def read(self, start: int, stop: int, token: Tensor, *, cut: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (B, H, stop - start, K) of each group. No gradient reaches places before ``cut``."""
        if is_traced():
            window = self.store[..., start:stop, :]
            if cut > start:
                window = torch.cat((window[..., : cut - start, :].detach(), window[..., cut - start :, :]), dim=-2)
            return [(pair[0], pair[1]) for pair in window]
        if torch.is_grad_enabled() and token.requires_grad:
            parts = _Read.apply(token, self, start, stop, cut)
        else:
            parts = self.views(start, stop)
        return list(zip(parts[::2], parts[1::2], strict=True))

    def put(self, entries: Tensor, place: int, keep: Tensor | None) -> None:
        """Write without gradient."""
        target, source = self._match(entries.detach(), place)
        target.copy_(source if keep is None else torch.where(keep[:, None, :, None], target, source))

    def _match(self, entries: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Where entries go, and entries in that shape and dtype."""
        store = self.store if is_traced() else self.store.data
        return store[..., place : place + entries.shape[1], :], entries.permute(2, 3, 0, 4, 1, 5).to(store.dtype)

    def views(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Keys and values in turn, without gradient. ``.data``: a later write to other places must not make what is saved here look
        stale."""
        window = self.store.data[..., start:stop, :]
        return tuple(window[group, part] for group in range(window.shape[0]) for part in (0, 1))

    def gradient(self) -> Tensor:
        """Sum of the readers' gradients in the backward pass under way. A pass of its own starts at zero: an earlier one may have stopped
        half-way."""
        backward = torch._C._current_graph_task_id()
        if self._gradient is None or backward != self._backward:
            self._gradient = torch.zeros_like(self.store, dtype=exact_dtype(self.store))
            self._backward = backward
            if is_followed():  # then it holds on to the graph, which holds on to this line
                torch.autograd.Variable._execution_engine.queue_callback(self._forget)
        return self._gradient

    def put_gradient(self, part: Tensor, start: int) -> None:
        """Replace the sum's places from ``start`` on, with a sum that can be differentiated and mapped over."""
        self._gradient = self.gradient().slice_scatter(part, dim=-2, start=start, end=start + part.shape[-2])

    def _forget(self) -> None:
        self._gradient = None


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, entries: Tensor, token: Tensor, line: MemoryLine, place: int, keep: Tensor | None) -> Tensor:
        line.put(entries, place, keep)
        ctx.line, ctx.place, ctx.keep, ctx.like = line, place, keep, (entries.shape[1], entries.dtype)
        return token.clone()

    @staticmethod
    def backward(ctx: Any, token: Tensor) -> tuple[Any, ...]:
        count, dtype = ctx.like
        here = ctx.line.gradient()[..., ctx.place : ctx.place + count, :]
        entries = here.permute(2, 4, 0, 1, 3, 5).to(dtype, copy=True)
        if is_followed():
            left = torch.zeros_like(here)
            if ctx.keep is not None:
                left = here * ctx.keep[:, None, :, None]
                entries = entries.masked_fill(ctx.keep[:, :, None, None, None, None], 0.0)
            ctx.line.put_gradient(left, ctx.place)
            return entries, token, None, None, None
        if ctx.keep is None:
            here.zero_()  # a place written over has nothing left for whoever wrote it before
        else:
            here.mul_(ctx.keep[:, None, :, None])
            entries = entries.masked_fill(ctx.keep[:, :, None, None, None, None], 0.0)
        return entries, token, None, None, None


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, line: MemoryLine, start: int, stop: int, cut: int) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.line, ctx.start, ctx.stop, ctx.cut = line, start, stop, max(cut - start, 0)
        return line.views(start, stop)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        total = ctx.line.gradient()[..., ctx.start + ctx.cut : ctx.stop, :]
        if is_followed():
            parts = [
                part if gradient is None else part + gradient[..., ctx.cut :, :]
                for part, gradient in zip(total.flatten(0, 1).unbind(), gradients, strict=True)
            ]
            ctx.line.put_gradient(torch.stack(parts).unflatten(0, total.shape[:2]), ctx.start + ctx.cut)
            return total.new_zeros((), dtype=ctx.line.store.dtype), None, None, None, None
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                total[index // 2, index % 2].add_(gradient[..., ctx.cut :, :])
        return total.new_zeros((), dtype=ctx.line.store.dtype), None, None, None, None


def attend_runs(queries: Tensor, runs: Sequence[tuple[Tensor, Tensor]], bias: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Softmax attention over several runs of keys together, without joining them.

    Args:
        queries: (B, H, N, K), scaled.
        runs: keys and values (B, H, S_i, K) of each run.
        bias: broadcasts to (B, H, N, sum of S_i); hidden pairs have ``HIDDEN``.
        dropout: of the weights.

    Returns:
        (B, H, N, K). Scores are softened in float32 at least.
    """
    parts = [queries @ keys.to(queries.dtype).mT for keys, _ in runs]
    scores = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    weights = (scores.to(exact_dtype(scores)) + bias).softmax(dim=-1)
    if dropout > 0.0:
        weights = F.dropout(weights, dropout)
    weights = weights.to(queries.dtype)
    pieces = weights.split([keys.shape[-2] for keys, _ in runs], dim=-1)
    output = pieces[0] @ runs[0][1].to(queries.dtype)
    for piece, (_, values) in zip(pieces[1:], runs[1:], strict=True):
        output = output + piece @ values.to(queries.dtype)
    return output


def attend_runs_reference(queries: Tensor, runs: Sequence[tuple[Tensor, Tensor]], bias: Tensor) -> Tensor:
    """The definition: join, score, softmax, average."""
    keys, values = (torch.cat([run[part] for run in runs], dim=-2) for part in (0, 1))
    return (queries @ keys.mT + bias).softmax(dim=-1) @ values
