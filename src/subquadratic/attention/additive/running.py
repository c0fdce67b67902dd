"""The running softmax mean by PyTorch's operators with a backward of its own, which makes the weights again from what is kept.

The sequence is cut into blocks of chunks: a C x C matmul inside a chunk, a G x G one between the chunks of a block, the summary between
blocks.

Axes: B batch, H heads, N length, K head width, G chunks, C chunk length.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.packed import document_chunks
from ...kernels.derivatives import differentiable, keep, kept
from .formula import running_mean_by_formula
from .state import PoolState

BLOCK_NUMBERS = 2**18  # numbers of a tensor that are worked on at a time on a processor


def _by_formula(
    logits: Tensor,
    values: Tensor,
    weight: Tensor,
    total: Tensor,
    maximum: Tensor,
    mask: Tensor | None,
    bounds: list[int] | None,
    chunk: int,
) -> tuple[Tensor, None, Tensor, Tensor]:
    output, after = running_mean_by_formula(logits, values, mask, PoolState(maximum, weight, total), bounds, chunk=chunk)
    return output, None, after.weight, after.total


class RunningMean(torch.autograd.Function):
    """The running mean with a backward of its own, which makes the weights again from what is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        values: Tensor,
        weight: Tensor,
        total: Tensor,
        maximum: Tensor,
        mask: Tensor | None,
        bounds: list[int] | None,
        chunk: int,
    ) -> tuple[Tensor, ...]:
        output, after, maxima, inverses = forward(logits, values, PoolState(maximum, weight, total), mask, bounds, chunk)
        keep(ctx, (logits, values, weight, total, maximum, mask, bounds, chunk), output, maxima, inverses)
        ctx.mark_non_differentiable(after.maximum)
        ctx.set_materialize_grads(False)
        return output, after.maximum, after.weight, after.total

    @staticmethod
    @differentiable(_by_formula)
    def backward(ctx: Any, outputs: Tensor | None, _: None, weight: Tensor | None, total: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_backward(ctx, outputs, weight, total), None, None, None, None


def forward(
    logits: Tensor, values: Tensor, state: PoolState, mask: Tensor | None, bounds: list[int] | None, chunk: int
) -> tuple[Tensor, PoolState, Tensor, Tensor]:
    """Block by block. Also gives the running maxima (B, H, N), and one over the sums of weights (B, H, N), zero where nothing was seen."""
    output = torch.empty_like(values)
    maxima, inverses = (torch.empty(logits.shape, dtype=state.total.dtype, device=values.device) for _ in range(2))
    maximum, running = state.maximum.clone(), torch.cat((state.weight, state.total), dim=-1)
    blocks = _Blocks(values, running.dtype, bounds, chunk)
    for here, rows, _ in blocks.parts:
        scores = blocks.numbers(logits, here, mask=mask, fill=-torch.inf)  # (B, H, G, C)
        content = blocks.vectors(values, here, 0, mask=mask)  # (B, H, G, C, K)
        top = scores.cummax(dim=-1).values
        borders = torch.cat((maximum[rows], top[..., -1]), dim=-1).cummax(dim=-1).values  # (B, H, 1 + G): before and after each chunk
        top = torch.maximum(top, borders[..., :-1, None])

        weights = _weights(scores, top)  # (B, H, G, C, C)
        carried = borders[..., :-1, None].sub(top).exp_()  # the past, rescaled to the new maximum
        weight, total = weights.sum(dim=-1), blocks.matmul(weights, content, 1)
        sums = torch.cat((weight[..., -1:], total[..., -1, :]), dim=-1)  # (B, H, G, 1 + K): of each chunk, relative to its last maximum
        sums = torch.cat((running[rows, :, None], sums), dim=-2)
        sums = _weights(borders, borders) @ sums  # (B, H, 1 + G, 1 + K): of everything up to each border
        maximum[rows], running[rows] = borders[..., -1:], sums[..., -1, :]

        weight.addcmul_(carried, sums[..., :-1, :1])
        inverse = torch.where(weight > 0, weight.reciprocal(), 0.0)
        total.addcmul_(carried[..., None], sums[..., :-1, None, 1:]).mul_(inverse[..., None])
        _put(output, here, total)
        _put(maxima[..., None], here, top[..., None])
        _put(inverses[..., None], here, inverse[..., None])
    return output, PoolState(maximum, running[..., :1].clone(), running[..., 1:].clone()), maxima, inverses


def _backward(ctx: Any, given: Tensor | None, weight: Tensor | None, total: Tensor | None) -> tuple[Tensor | None, ...]:
    """Running sums from the end. With w_ij = exp(l_j - m_i), Z_i the sum of weights and G_i = dy_i / Z_i,

        dv_j = sum_{i>=j} w_ij G_i,   dl_j = dv_j v_j - sum_{i>=j} w_ij G_i y_i

    and what goes from block to block is the gradient of the summary between them.
    """
    (logits, values, _, _, start, mask, bounds, chunk), (output, maxima, inverses) = kept(ctx)
    needed = ctx.needs_input_grad
    logits_gradient, values_gradient = (
        torch.empty_like(tensor) if need else None for tensor, need in zip((logits, values), needed, strict=False)
    )
    given = values.new_zeros(()).expand_as(values) if given is None else given
    running = maxima.new_zeros((*start.shape[:2], 1 + values.shape[-1]))
    if weight is not None:
        running[..., :1] = weight
    if total is not None:
        running[..., 1:] = total
    blocks = _Blocks(values, running.dtype, bounds, chunk)
    for here, rows, first in reversed(blocks.parts):
        scores = blocks.numbers(logits, here, mask=mask, fill=-torch.inf)
        top, inverse = blocks.numbers(maxima, here), blocks.numbers(inverses, here, fill=0.0)
        arriving = start[rows] if first else maxima[..., here.start - 1 : here.start]
        borders = torch.cat((arriving, top[..., -1]), dim=-1)
        gradient = blocks.vectors(given, here, 0).mul_(inverse[..., None])  # G
        drop = blocks.vectors(output, here, 1).mul_(gradient).sum(dim=-1)  # G_i y_i

        weights = _weights(scores, top)
        carried = borders[..., :-1, None].sub(top).exp_()
        sums = torch.cat((-(carried * drop).sum(dim=-1, keepdim=True), (carried[..., None, :] @ gradient).squeeze(-2)), dim=-1)
        sums = _weights(borders, borders).mT @ torch.cat((sums, running[rows, :, None]), dim=-2)
        running[rows] = sums[..., 0, :]

        if not (needed[0] or needed[1]):
            continue
        content = blocks.matmul(weights.mT, gradient, 1)
        content.addcmul_(weights[..., -1, :, None], sums[..., 1:, None, 1:])
        if values_gradient is not None:
            _put(values_gradient, here, content)
        if logits_gradient is None:
            continue
        scores = content.mul_(blocks.vectors(values, here, 0, mask=mask)).sum(dim=-1)
        scores.addcmul_(weights[..., -1, :], sums[..., 1:, :1]).sub_((drop[..., None, :] @ weights).squeeze(-2))
        _put(logits_gradient[..., None], here, scores[..., None])
    return logits_gradient, values_gradient, running[..., :1], running[..., 1:]


class _Blocks:
    """The sequence as blocks of G chunks that are computed together, and room for what is computed in them, used again for each block:
    fresh memory costs a processor as much as the arithmetic.

    A block is as long as stays in a processor's cache, and short enough for the maxima of its chunks to be compared pair by pair.
    """

    def __init__(self, values: Tensor, dtype: torch.dtype, bounds: list[int] | None, chunk: int):
        batch, heads, length, width = values.shape
        slow = values.device.type == "cpu"
        groups = min(max((BLOCK_NUMBERS if slow else 64 * BLOCK_NUMBERS) // max(batch * heads * width * chunk, 1), 1), 64 if slow else 512)
        chunks = document_chunks(bounds, length, groups * chunk)
        self.parts = [(slice(part.start, part.stop), part.rows, part.first) for part in chunks]
        self.chunk, self.dtype = chunk, dtype
        longest = max(part.stop - part.start for part in chunks)
        places = longest + -longest % min(chunk, longest)
        self.rooms = [torch.empty(batch * heads * places * width, dtype=dtype, device=values.device) for _ in range(2)]

    def numbers(self, tensor: Tensor, here: slice, *, mask: Tensor | None = None, fill: float | None = None) -> Tensor:
        """Numbers (B, H, N) of a block as (B, H, G, C), masked ones -inf. The last chunk is filled up with ``fill``, or the last number."""
        tensor = tensor[..., here].to(self.dtype)
        if mask is not None:
            tensor = tensor.masked_fill(~mask[:, None, here], -torch.inf)
        size = min(self.chunk, tensor.shape[-1])
        padding = -tensor.shape[-1] % size
        if padding:
            tensor = F.pad(tensor, (0, padding), mode="replicate") if fill is None else F.pad(tensor, (0, padding), value=fill)
        return tensor.unflatten(-1, (-1, size))

    def vectors(self, tensor: Tensor, here: slice, room: int, *, mask: Tensor | None = None) -> Tensor:
        """Vectors (B, H, N, K) of a block as a copy (B, H, G, C, K), zero where masked and where the last chunk is not full."""
        tensor = tensor[..., here, :]
        batch, heads, length, width = tensor.shape
        size = min(self.chunk, length)
        block = self._take(room, batch, heads, -(-length // size) * size, width)
        block[..., length:, :] = 0.0
        block[..., :length, :] = tensor
        if mask is not None:
            block[..., :length, :].masked_fill_(~mask[:, None, here, None], 0.0)
        return block.unflatten(-2, (-1, size))

    def matmul(self, a: Tensor, b: Tensor, room: int) -> Tensor:
        """a @ b, of the shape of ``b``."""
        return torch.bmm(a.flatten(0, 2), b.flatten(0, 2), out=self._take(room, *b.shape).flatten(0, 2)).view(b.shape)

    def _take(self, room: int, *shape: int) -> Tensor:
        return self.rooms[room][: math.prod(shape)].view(shape)


def _put(target: Tensor, here: slice, block: Tensor) -> None:
    """(B, H, G, C, K) back to its place."""
    target[..., here, :] = block.flatten(2, 3)[..., : here.stop - here.start, :]


def _weights(scores: Tensor, tops: Tensor) -> Tensor:
    """exp(l_j - m_i) for j <= i, else exactly zero, whatever is there."""
    return (scores[..., None, :] - tops[..., :, None]).exp_().tril_()
