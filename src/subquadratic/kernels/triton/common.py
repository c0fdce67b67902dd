"""What the kernels share: how a batch or packed documents are cut into chunks, checks, tile sizes, and small pieces of device code.

A kernel program works on one chunk, or walks the chunks of one document. A row of a batch is a document that begins at 0; packed documents
lie one after another in a batch of one row.

Axes: B batch, N length, H heads, K head width, M features, G chunks of all documents, C chunk length, P documents (B when not packed).
"""
# mypy: disallow-untyped-defs=False
# (device code has no types that Python knows)

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import interpreted

EMPTY = tl.constexpr(-1e30)  # the maximum of nothing: finite, so that differences are never NaN
INTERPRETED = interpreted()  # decided when the kernels are made, like their decorators
LAUNCH = {"num_warps": 4, "num_stages": 2}  # two stages: three need more shared memory than consumer GPUs have
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Chunks(NamedTuple):
    """Where the chunks of all documents lie."""

    size: int  # C
    total: int  # G, or for packed documents the most that there can be: known without reading the lengths from the device
    documents: int  # P
    per_document: int  # of an unpacked batch
    offsets: Tensor | None  # packed: (P,) int64 first chunk of each document
    table: Tensor | None  # packed: (G, 2) int64 document and first position of each chunk; document -1: there is no such chunk


def cut(batch: int, length: int, size: int, cu_seqlens: Tensor | None) -> Chunks:
    """Chunks of ``size`` positions, none crossing from one document into the next."""
    if cu_seqlens is None:
        per_document = triton.cdiv(length, size)
        return Chunks(size, batch * per_document, batch, per_document, None, None)
    documents = cu_seqlens.shape[0] - 1
    ends = ((cu_seqlens.diff() + size - 1) // size).cumsum(0)
    offsets = torch.cat((ends.new_zeros(1), ends))
    count = (length + documents * (size - 1)) // size
    index = torch.arange(count, device=cu_seqlens.device)
    document = torch.searchsorted(ends, index, right=True)
    first = cu_seqlens[document] + (index - offsets[document]) * size
    return Chunks(size, count, documents, 0, offsets, torch.stack((document.where(document < documents, -1), first), dim=1))


def by_document(
    formula: Callable[..., tuple[Tensor, ...]], cu_seqlens: Tensor | None, length: int, lines: Sequence[Tensor], state: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """A formula of sequences and the state before them, which gives an output and the state after, of each document by itself.

    Args:
        formula: takes ``lines`` and ``state``.
        cu_seqlens: (P + 1,) or None.
        length: N.
        lines: tensors whose axis of positions is -2.
        state: tensors of P rows.
    """
    if cu_seqlens is None:
        return formula(*lines, *state)
    outputs, after = [], []
    for row, (start, stop) in enumerate(itertools.pairwise(cu_seqlens.tolist())):
        before = [x[row : row + 1] for x in state]
        if stop > start:
            output, *before = formula(*(x[..., start:stop, :] for x in lines), *before)
            outputs.append(output)
        after.append(before)
    return torch.cat(outputs, dim=-2), *(torch.cat(rows) for rows in zip(*after, strict=True))


def tile(size: int, dtype: torch.dtype) -> int:
    """Side of a tile for an axis of ``size``: a power of two from 16, the least that a matmul takes.

    Up to 64; for float32, which is multiplied without tensor cores, up to 32: the registers hold no more.
    """
    return min(32 if dtype == torch.float32 else 64, max(16, triton.next_power_of_2(size)))


def more_warps(dtype: torch.dtype) -> dict[str, int]:
    """Launch options of a kernel whose several 64 x 64 accumulators would not fit in the registers of four warps."""
    return LAUNCH if dtype == torch.float32 else LAUNCH | {"num_warps": 8}


def plain(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Unwritten float32 on the device of ``like``."""
    return torch.empty(shape, device=like.device, dtype=torch.float32)


def lines(tensor: Tensor) -> Tensor:
    """The tensor with its last axis contiguous: copied only where it is not (heads split from a projection are as they are)."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def strides(tensor: Tensor) -> tuple[int, int, int]:
    """Steps along (B, H, N) of a (B, H, N, .); 0 along an axis of one that stands for all."""
    batch, head, position = tensor.stride()[:3]
    return batch if tensor.shape[0] > 1 else 0, head if tensor.shape[1] > 1 else 0, position


def check_inputs(cu_seqlens: Tensor | None, **tensors: Tensor) -> None:
    """Raises ValueError unless the (B, ., N, .) given have one dtype that the kernels take, and fit ``cu_seqlens``."""
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    if len(set(dtypes.values())) > 1 or not set(dtypes.values()) <= set(DTYPES):
        raise ValueError(f"the kernels take float32, float16 or bfloat16, the same in all of {', '.join(dtypes)}; got {dtypes}")
    if INTERPRETED and torch.bfloat16 in dtypes.values():
        raise ValueError("Triton's interpreter cannot multiply bfloat16: use float32 or float16 there, or a GPU")
    if cu_seqlens is None:
        return
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype != torch.int64 or cu_seqlens.shape[0] < 2:
        raise ValueError(f"cu_seqlens must be int64 (documents + 1,), got {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}")
    for name, tensor in tensors.items():
        if tensor.shape[0] != 1:
            raise ValueError(f"with cu_seqlens the batch of {name} must be 1 (documents packed in one row), got {tensor.shape[0]}")


def check_shapes(**pairs: tuple[Tensor, tuple[int, ...]]) -> None:
    """Raises ValueError where a tensor has not the shape said."""
    for name, (tensor, shape) in pairs.items():
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(tensor.shape)}")


def documents_of(batch: int, cu_seqlens: Tensor | None) -> int:
    """Rows that a state has."""
    return batch if cu_seqlens is None else cu_seqlens.shape[0] - 1


@triton.jit
def find_document(document, cu_seqlens, offsets, length, per_document, PACKED: tl.constexpr):
    """(batch row, first position, end, first chunk) of a document."""
    if PACKED:
        return document * 0, tl.load(cu_seqlens + document), tl.load(cu_seqlens + document + 1), tl.load(offsets + document)
    else:
        return document, document * 0, document * 0 + length, document * per_document


@triton.jit
def find_chunk(chunk, cu_seqlens, table, length, per_document, PACKED: tl.constexpr, CHUNK: tl.constexpr):
    """(document, batch row, document's first position, chunk's first position, its end) of a chunk; document -1: there is no such chunk."""
    if PACKED:
        document = tl.load(table + 2 * chunk)
        first = tl.load(table + 2 * chunk + 1)
        real = tl.maximum(document, 0)
        return document, chunk * 0, tl.load(cu_seqlens + real), first, tl.minimum(first + CHUNK, tl.load(cu_seqlens + real + 1))
    else:
        first = chunk % per_document * CHUNK
        return chunk // per_document, chunk // per_document, chunk * 0, first, tl.minimum(first + CHUNK, length)


@triton.jit
def shrink(x, dtype: tl.constexpr):
    """(x / scale in dtype, scale) for a float32 tile that enters a matmul: float16 would overflow where the others do not."""
    if dtype == tl.float16:
        scale = tl.maximum(tl.max(tl.max(tl.abs(x), 1), 0), 1e-30)
        return (x / scale).to(dtype), scale
    else:
        return x.to(dtype), 1.0


@triton.jit
def shrink_rows(x, dtype: tl.constexpr):
    """As :func:`shrink` with one scale (., 1) a row, so that a later row does not change how an earlier one rounds."""
    if dtype == tl.float16:
        scale = tl.maximum(tl.max(tl.abs(x), 1), 1e-30)[:, None]
        return (x / scale).to(dtype), scale
    else:
        return x.to(dtype), 1.0


@triton.jit
def held(x, dtype: tl.constexpr):
    """x in dtype, at float16's largest number where it would be infinite."""
    if dtype == tl.float16:
        return tl.minimum(tl.maximum(x, -65504.0), 65504.0).to(dtype)
    else:
        return x.to(dtype)


@triton.jit
def dot(a, b):
    """Matmul with a float32 accumulator, float32 operands unrounded."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def load_tile(pointer, rows, row_stride, columns, row_valid, WIDTH: tl.constexpr):
    """(rows, columns) of a row-major matrix, zero outside."""
    return tl.load(pointer + rows[:, None] * row_stride + columns[None, :], mask=row_valid[:, None] & (columns < WIDTH)[None, :], other=0.0)


@triton.jit
def store_tile(pointer, rows, row_stride, columns, row_valid, x, WIDTH: tl.constexpr):
    """The inverse of :func:`load_tile`."""
    mask = row_valid[:, None] & (columns < WIDTH)[None, :]
    tl.store(pointer + rows[:, None] * row_stride + columns[None, :], held(x, pointer.dtype.element_ty), mask=mask)


@triton.jit
def _slopes(
    outputs, gradients, slopes, length,
    outputs_b, outputs_h, outputs_n, gradients_b, gradients_h, gradients_n,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch, head = row // HEADS, row % HEADS
    positions = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = positions < length
    total = tl.zeros([BLOCK], tl.float32)
    for column in range(0, WIDTH, BLOCK_K):
        columns = column + tl.arange(0, BLOCK_K)
        o = load_tile(outputs + batch * outputs_b + head * outputs_h, positions, outputs_n, columns, valid, WIDTH)
        do = load_tile(gradients + batch * gradients_b + head * gradients_h, positions, gradients_n, columns, valid, WIDTH)
        total += tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(slopes + row * length + positions, -total, mask=valid)


def slopes(outputs: Tensor, gradients: Tensor) -> Tensor:
    """(B, H, N) float32, - sum over K of outputs * gradients: what a normaliser adds to the gradient of every weight of its row."""
    batch, heads, length, width = outputs.shape
    found = plain((batch, heads, length), outputs)
    _slopes[(batch * heads, triton.cdiv(length, 64))](
        outputs,
        gradients,
        found,
        length,
        *strides(outputs),
        *strides(gradients),
        heads,
        width,
        BLOCK=64,
        BLOCK_K=tile(width, outputs.dtype),
    )
    return found
