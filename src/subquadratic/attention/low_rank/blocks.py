"""Causal slots block by block, with a backward of their own: no N x R tensor outlives its block.

A block is G chunks of C positions that are computed side by side. Backward keeps the inputs and the slots before each block, and makes
scores and weights again.

Axes: B batch, H heads, N length, K head width, R slots, G chunks, C chunk length. Inside a block: J = G B (H or 1) pieces with slots of
their own, each of P rows (C for every head that shares the slots); T = G (B or 1) pieces with weights E and F of their own, each for the
heads and widths that they sum side by side.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.packed import document_chunks
from ...core.tracing import needs_gradient
from ...kernels.derivatives import differentiable, keep, kept
from .formula import slots_by_formula

BLOCK_SCORES = 2**19  # that are worked on at a time on a processor


def slots_in_blocks(
    inputs: tuple[Tensor, ...], key_slots: Tensor, value_slots: Tensor, bounds: list[int] | None, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal slot attention.

    Args:
        inputs: queries (B, H, N, K), keys and values (B, H or 1, N, K), E and F (N, R) or (B, N, R).
        key_slots, value_slots: (B or documents, H or 1, R, K) before the first position, in the dtype of the arithmetic.
        bounds: borders of packed documents, or None.
        chunk: C at most.

    Returns:
        (B, H, N, K) in the dtype of the values, and the slots after the last position. Gradients reach every tensor.
    """
    if needs_gradient(*inputs, key_slots, value_slots):
        return _Slots.apply(*inputs, key_slots, value_slots, bounds, chunk)
    output, last_keys, last_values, *_ = _forward(inputs, (key_slots, value_slots), bounds, chunk)
    return output, last_keys, last_values


def _composition(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, key_slots, value_slots, bounds, _ = arguments
    return slots_by_formula(inputs, key_slots, value_slots, bounds)


class _Slots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        *inputs, key_slots, value_slots, bounds, chunk = args
        output, last_keys, last_values, *slots = _forward(inputs, (key_slots, value_slots), bounds, chunk)
        keep(ctx, args, *slots)
        ctx.set_materialize_grads(False)
        return output, last_keys, last_values

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_backward(ctx, *gradients), None, None


def _forward(inputs: Sequence[Tensor], start: tuple[Tensor, Tensor], bounds: list[int] | None, chunk: int) -> tuple[Tensor, ...]:
    """Output, slots after the last position, and slots before each block (blocks, B, H or 1, R, K), those of keys first."""
    queries, _, values, _, _ = inputs
    output = values.new_empty((*queries.shape[:-1], values.shape[-1]))
    work = _Work(inputs, start[0].dtype, bounds, chunk)
    slots = [tensor.clone() for tensor in start]
    kept = [tensor.new_empty((len(work.parts), queries.shape[0], *tensor.shape[1:])) for tensor in start]
    for index, (here, rows) in enumerate(work.parts):
        for tensor, before in zip(slots, kept, strict=True):
            before[index] = tensor[rows]
        block = work.weigh(inputs, here, kept[0][index], kept[1][index])
        result = work.matmul("result", block.weights, _pieces(block.value_slots[:-1]))
        work.put(output, here, result.baddbmm_(block.mixed, block.values))
        for tensor, line in zip(slots, (block.key_slots, block.value_slots), strict=True):
            tensor[rows] = line[-1]
    return output, *slots, *kept


def _backward(ctx: Any, given: Tensor | None, last_keys: Tensor | None, last_values: Tensor | None) -> list[Tensor | None]:
    """Blocks and their chunks from the end. With A = tril(q k^T), p = softmax(q K^T + A E), M = tril(p F^T), o = p V + M v:

        dM = tril(do v^T),  dp = do V^T + dM F,  ds = p (dp - p . dp),  dA = tril(ds E^T)
        dq = ds K + dA k,   dk = dA^T q + E dK',  dE = A^T ds + k dK'^T
                            dv = M^T do + F dV',  dF = dM^T p + v dV'^T

    where dK' and dV' are the gradients of the slots after the chunk; those before it get ds^T q and p^T do more.
    """
    (*inputs, start, _, bounds, chunk), (kept_keys, kept_values) = kept(ctx)
    needed = ctx.needs_input_grad
    work = _Work(inputs, kept_keys.dtype, bounds, chunk)
    found = [torch.empty_like(tensor) if need else None for tensor, need in zip(inputs, needed, strict=False)]
    key_slots, value_slots = (
        slots.new_zeros((len(start), *slots.shape[2:])) if last is None else last.to(slots.dtype, copy=True)
        for slots, last in ((kept_keys, last_keys), (kept_values, last_values))
    )
    if given is None:
        given = kept_keys.new_zeros(()).expand(*inputs[0].shape[:-1], inputs[2].shape[-1])
    for index, (here, rows) in reversed(list(enumerate(work.parts))):
        block = work.weigh(inputs, here, kept_keys[index], kept_values[index])
        gradient = work.read("gradient", given, here).view(*block.queries.shape[:2], -1)
        line = work.sum_back(value_slots[rows], work.matmul("sums", block.weights.mT, gradient))
        mixed = work.triangle(work.matmul("mixed_gradient", gradient, block.values.mT))
        if needed[2]:
            result = work.matmul("result", block.mixed.mT, gradient)
            work.put(found[2], here, work.add_reads(result, block.value_weights, line))
        if needed[4]:
            result = work.matmul("weights_gradient", work.flat(mixed).mT, work.flat(block.weights))
            work.put(found[4], here, work.add_pairs(result, block.values, line))
        value_slots[rows] = line[0]
        if not (needed[0] or needed[1] or needed[3] or needed[5]):
            continue

        scores = work.matmul("scores", gradient, _pieces(block.value_slots[:-1]).mT)
        work.flat(scores).baddbmm_(work.flat(mixed), block.value_weights)
        scores.mul_(block.weights)
        scores.addcmul_(block.weights, scores.sum(dim=-1, keepdim=True), value=-1.0)
        line = work.sum_back(key_slots[rows], work.matmul("sums", scores.mT, block.queries))
        near = work.matmul("near_gradient", work.flat(scores), block.key_weights.mT).view_as(block.near)
        near = work.triangle(near)
        if needed[0]:
            result = work.matmul("result", scores, _pieces(block.key_slots[:-1])).baddbmm_(near, block.keys)
            work.put(found[0], here, result.mul_(work.scale))
        if needed[1]:
            result = work.matmul("result", near.mT, block.queries)
            work.put(found[1], here, work.add_reads(result, block.key_weights, line))
        if needed[3]:
            result = work.matmul("weights_gradient", work.flat(block.near).mT, work.flat(scores))
            work.put(found[3], here, work.add_pairs(result, block.keys, line))
        key_slots[rows] = line[0]
    return [*found, key_slots, value_slots]


class _Block(NamedTuple):
    """What forward and backward need of one block."""

    queries: Tensor  # (J, P, K), scaled
    keys: Tensor  # (J, C, K)
    values: Tensor  # (J, C, K)
    key_weights: Tensor  # (T, C, R)
    value_weights: Tensor  # (T, C, R)
    key_slots: Tensor  # (G + 1, B, H or 1, R, K), before each chunk and after the last
    value_slots: Tensor  # (G + 1, B, H or 1, R, K)
    near: Tensor  # (J, P, C): A
    weights: Tensor  # (J, P, R): p
    mixed: Tensor  # (J, P, C): M


class _Work:
    """The blocks of a sequence, the layouts they are worked on in, and memory for that, used again for each block: fresh memory costs a
    processor as much as the arithmetic."""

    def __init__(self, inputs: Sequence[Tensor], dtype: torch.dtype, bounds: list[int] | None, chunk: int):
        queries, keys, _, weights, _ = inputs
        batch, heads, length, width = queries.shape
        scores = BLOCK_SCORES if queries.device.type == "cpu" else 64 * BLOCK_SCORES
        groups = max(scores // (batch * heads * chunk * weights.shape[-1]), 1)
        parts = document_chunks(bounds, length, groups * chunk)
        self.parts = [(slice(part.start, part.stop), part.rows) for part in parts]
        self.chunk, self.scale, self.dtype, self.device = chunk, width**-0.5, dtype, queries.device
        self.side_by_side = batch * keys.shape[1] // (weights.shape[0] if weights.dim() == 3 else 1)  # J / T
        self.buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, *shape: int) -> Tensor:
        """Memory of that shape with anything in it, the same at each call."""
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = torch.empty(size, dtype=self.dtype, device=self.device)
        return self.buffers[name][:size].view(shape)

    def matmul(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b, out=self.buffer(name, a.shape[0], a.shape[1], b.shape[2]))

    def weigh(self, inputs: Sequence[Tensor], here: slice, key_start: Tensor, value_start: Tensor) -> _Block:
        """A block from its inputs and the slots before it, (B, H or 1, R, K)."""
        names = ("queries", "keys", "values", "key_weights", "value_weights")
        queries, keys, values, key_weights, value_weights = (
            self.read(name, tensor, here) for name, tensor in zip(names, inputs, strict=True)
        )
        (keys, values), (key_weights, value_weights) = ((_pieces(a), _pieces(b)) for a, b in ((keys, values), (key_weights, value_weights)))
        queries = queries.mul_(self.scale).view(len(keys), -1, queries.shape[-1])
        key_slots = self.sum_on("key_slots", key_start, key_weights, keys)
        value_slots = self.sum_on("value_slots", value_start, value_weights, values)
        near = self.triangle(self.matmul("near", queries, keys.mT))
        scores = self.matmul("scores", queries, _pieces(key_slots[:-1]).mT)
        self.flat(scores).baddbmm_(self.flat(near), key_weights)
        weights = torch.softmax(scores, dim=-1, out=self.buffer("weights", *scores.shape))
        mixed = self.triangle(self.matmul("mixed", self.flat(weights), value_weights.mT).view_as(near))
        return _Block(queries, keys, values, key_weights, value_weights, key_slots, value_slots, near, weights, mixed)

    def read(self, name: str, tensor: Tensor, here: slice) -> Tensor:
        """Positions of (B, H, N, .), (B, N, .) or (N, .) as (G, B or 1, H or 1, C, .), zero where the last chunk is not full."""
        tensor = _four_axes(tensor)[..., here, :]
        batch, heads, length, width = tensor.shape
        size = min(self.chunk, length)
        full = length // size
        block = self.buffer(name, full + (length % size > 0), batch, heads, size, width)
        block[:full] = tensor[..., : full * size, :].unflatten(2, (full, size)).movedim(2, 0)
        if full < len(block):
            rest = length - full * size
            block[full, ..., :rest, :] = tensor[..., full * size :, :]
            block[full, ..., rest:, :] = 0.0
        return block

    def put(self, target: Tensor | None, here: slice, block: Tensor) -> None:
        """Undo :meth:`read`."""
        assert target is not None
        target = _four_axes(target)[..., here, :]
        batch, heads, length, width = target.shape
        size = min(self.chunk, length)
        block = block.view(-1, batch, heads, size, width)
        full = length // size
        target[..., : full * size, :].unflatten(2, (full, size)).copy_(block[:full].movedim(0, 2))
        if full < len(block):
            target[..., full * size :, :] = block[full, ..., : length - full * size, :]

    def triangle(self, pairs: Tensor) -> Tensor:
        """(J, P, C) with what pairs a position with later ones exactly zero, in place."""
        pairs.view(-1, pairs.shape[-1], pairs.shape[-1]).tril_()
        return pairs

    def flat(self, tensor: Tensor) -> Tensor:
        """(J, P, .) as (T, rows, .): everything that meets the same weights, one below the other."""
        return tensor.view(len(tensor) // self.side_by_side, -1, tensor.shape[-1])

    def wide(self, name: str, tensor: Tensor) -> Tensor:
        """(J, rows, K) as (T, rows, J / T K): everything that is summed with the same weights, side by side."""
        pieces = tensor.unflatten(0, (-1, self.side_by_side)).transpose(1, 2)
        side_by_side = self.buffer(name, *pieces.shape)
        return side_by_side.copy_(pieces).flatten(2)

    def narrow(self, tensor: Tensor) -> Tensor:
        """Undo :meth:`wide`, as a view (T, J / T, rows, K)."""
        return tensor.unflatten(-1, (self.side_by_side, -1)).transpose(1, 2)

    def sum_on(self, name: str, start: Tensor, weights: Tensor, tensor: Tensor) -> Tensor:
        """Slots before each chunk and after the last."""
        sums = self.narrow(self.matmul("sums", weights.mT, self.wide("wide", tensor)))  # (T, J / T, R, K)
        sums = sums.unflatten(0, (len(tensor) // (start.shape[0] * start.shape[1]), -1))
        line = self.buffer(name, len(sums) + 1, *start.shape)
        line[0] = start
        for before, more, after in zip(line, sums, line[1:], strict=False):
            torch.add(before.view_as(more), more, out=after.view_as(more))
        return line

    def sum_back(self, end: Tensor, sums: Tensor) -> Tensor:
        """Gradients of the slots before each chunk and after the last, which is ``end``, from what each chunk adds, (J, R, K)."""
        sums = sums.view(-1, *end.shape)
        line = self.buffer("line", len(sums) + 1, *end.shape)
        line[-1] = end
        for g in reversed(range(len(sums))):
            torch.add(line[g + 1], sums[g], out=line[g])
        return line

    def add_reads(self, target: Tensor, weights: Tensor, line: Tensor) -> Tensor:
        """target (J, C, K) += E dK'."""
        reads = self.matmul("reads", weights, self.wide("wide", _pieces(line[1:])))
        target.unflatten(0, (-1, self.side_by_side)).add_(self.narrow(reads))
        return target

    def add_pairs(self, target: Tensor, tensor: Tensor, line: Tensor) -> Tensor:
        """target (T, C, R) += k dK'^T, summed over what is side by side."""
        return target.baddbmm_(self.wide("wide_tensor", tensor), self.wide("wide", _pieces(line[1:])).mT)


def _pieces(tensor: Tensor) -> Tensor:
    """(G, B, H or 1, rows, .) as (J, rows, .)."""
    return tensor.flatten(0, 2)


def _four_axes(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 4 else tensor[None, None] if tensor.dim() == 2 else tensor[:, None]
