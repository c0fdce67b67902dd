"""Packed documents: several sequences laid end to end in one row, none of which sees another.

``cu_seqlens`` says where they lie: document d holds the positions from ``cu_seqlens[d]`` up to ``cu_seqlens[d + 1]``. A state that goes
with packed documents has one row per document where it otherwise has one per row of the batch.

Axes: B batch (1 when packed), N length, C chunk length.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Chunk(NamedTuple):
    """A run of positions that share their rows of the state."""

    rows: slice  # of the state: the document's own, or all when nothing is packed
    start: int
    stop: int
    first: bool  # whether the document begins here: what its rows of the state held before is what it was given


def document_bounds(cu_seqlens: Tensor | None, batch: int, length: int, *, state_rows: int | None = None) -> list[int] | None:
    """``cu_seqlens`` as a list, after checking it.

    Args:
        cu_seqlens: (documents + 1,) int32 or int64: 0 first, N last, never falling. A document may be empty. None: nothing is packed.
        batch, length: B and N of what it describes.
        state_rows: rows of the state that comes with it; None: there is none.

    Raises:
        ValueError: for anything else, or a batch of more than one row, or another number of rows in the state than documents.
        NotImplementedError: while compiling, since how many chunks there are would have to be known.
    """
    if cu_seqlens is None:
        return None
    if torch.compiler.is_compiling():
        raise NotImplementedError("cu_seqlens cannot be compiled: the graph would depend on its values; compile with a batch of documents")
    if cu_seqlens.dim() != 1 or len(cu_seqlens) < 2 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"cu_seqlens must be (documents + 1,) of int32 or int64 with at least one document, "
            f"got {tuple(cu_seqlens.shape)} of {cu_seqlens.dtype}"
        )
    if batch != 1:
        raise ValueError(f"cu_seqlens packs documents into one row: the batch must be 1, got {batch}")
    bounds: list[int] = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != length:
        raise ValueError(f"cu_seqlens must run from 0 to the length {length}, got {bounds[0]} to {bounds[-1]}")
    for before, after in pairwise(bounds):
        if after < before:
            raise ValueError(f"cu_seqlens must never fall, got {before} and then {after}")
    if state_rows is not None and state_rows != len(bounds) - 1:
        raise ValueError(f"state must have one row per document of cu_seqlens = {len(bounds) - 1}, got {state_rows}")
    return bounds


def state_rows(bounds: list[int] | None, batch: int) -> int:
    """Rows that a state has: one per document, or one per row of the batch."""
    return batch if bounds is None else len(bounds) - 1


def document_chunks(bounds: list[int] | None, length: int, chunk: int) -> list[Chunk]:
    """Runs of at most ``chunk`` positions, in order, which cover every position once and cross no border of a document."""
    bounds, packed = ([0, length], False) if bounds is None else (bounds, True)
    chunks = []
    for document in range(len(bounds) - 1):
        rows = slice(document, document + 1) if packed else slice(None)
        for start in range(bounds[document], bounds[document + 1], chunk):
            chunks.append(Chunk(rows, start, min(start + chunk, bounds[document + 1]), start == bounds[document]))
    return chunks
