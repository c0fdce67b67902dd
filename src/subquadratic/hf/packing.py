"""Several documents in one row, as `DataCollatorWithFlattening` and TRL's packing lay them: each goes through the model by itself.

Axes: B rows, N slots, D width, R documents, L the longest of a group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import require
from ..core.packed import document_bounds


class Documents(NamedTuple):
    """Where the documents of a batch lie."""

    number: Tensor  # (B, N) int64, the document of each real slot
    place: Tensor  # (B, N) int64, which of its tokens
    real: Tensor  # (B, N) bool

    def tables(self) -> list[Tensor]:
        """(R, L) int64 per group of documents of like length: the slot, counted through the batch, of each token; -1 for none.

        A group's longest document has at most twice the tokens of its shortest, so that no more than half of a group is padding. There is
        one group where processes compute together, all of which have to call the model as often as each other.
        """
        number, place = self.number[self.real], self.place[self.real]
        slots = self.real.flatten().nonzero()[:, 0]
        lengths = torch.bincount(number)
        together = torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        size = torch.zeros_like(lengths) if together else (lengths.double().clamp_min(1).log2()).floor().long()
        found = []
        for group in size.unique().tolist():
            chosen = (size == group) & (lengths > 0)
            if not bool(chosen.any()):
                continue
            row = chosen.cumsum(0) - 1
            table = slots.new_full((int(chosen.sum()), int(lengths[chosen].max())), -1)
            own = chosen[number]
            table[row[number[own]], place[own]] = slots[own]
            found.append(table)
        return found

    def starts(self) -> Tensor:
        """(B, N) bool: the first token of each document."""
        return self.real & (self.place == 0)


@torch.compiler.disable
def find_documents(
    batch: int,
    length: int,
    *,
    mask: Tensor | None,
    position_ids: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    seen: int,
) -> Documents | None:
    """The documents of a batch; None where each row is one.

    Args:
        batch, length: B and N.
        mask: (B, N) bool, True = real token.
        position_ids: (B, N) or (1, N): 0, 1, 2 ... over the real tokens of each document.
        cu_seqlens: (documents + 1,) bounds in a batch of one row.
        seq_idx: (B, N), a number per document.
        seen: slots that a cache holds: positions go on from there.

    Raises:
        ValueError: for positions that do not count, bounds that do not fit, or documents that begin in the midst of a cached stream.
    """
    if length == 1 or (position_ids is None and cu_seqlens is None and seq_idx is None):
        return None
    device = next(given.device for given in (position_ids, cu_seqlens, seq_idx) if given is not None)
    real = torch.ones(batch, length, dtype=torch.bool, device=device) if mask is None else mask
    count = real.cumsum(1) - 1  # of real tokens, in each row
    begins = torch.zeros_like(real)
    if cu_seqlens is not None:
        bounds = document_bounds(cu_seqlens, batch, length)
        assert bounds is not None
        begins[0, [bound for bound in bounds if bound < length]] = True
    elif seq_idx is not None:
        seq_idx = seq_idx.expand(batch, -1)
        require(seq_idx.shape == real.shape, f"seq_idx must be (batch, length) = {tuple(real.shape)}, got {tuple(seq_idx.shape)}")
        begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    elif position_ids is not None:
        begins = _restarts(position_ids, real, seen, padded=mask is not None)
    begins = _at_real(begins, real)
    begins[:, :1] |= real[:, :1]
    begins = begins | (real & (count == 0))
    more = begins.sum(dim=1) > 1
    if not bool(more.any()):
        return None
    require(not seen, "packed documents cannot go on from past_key_values: give each document of a batch its own row")
    number = begins.flatten().cumsum(0).view_as(begins) - 1
    place = count - (count * begins).cummax(dim=1).values
    return Documents(number, place, real)


def _restarts(position_ids: Tensor, real: Tensor, seen: int, *, padded: bool) -> Tensor:
    """(B, N) bool: where positions begin again at 0. Without padding they must count; with it, those that ``generate`` makes do not: a
    token after padding in the midst of a row gets the one of the padding and 1."""
    require(
        position_ids.dim() == 2 and position_ids.shape[1] == real.shape[1] and position_ids.shape[0] in (1, real.shape[0]),
        f"position_ids must be (batch, length) = {tuple(real.shape)}, got {tuple(position_ids.shape)}",
    )
    position_ids = position_ids.expand_as(real)
    begins = real & (position_ids == 0)
    if not padded:
        counted = position_ids[:, 1:] == position_ids[:, :-1] + 1
        right = (begins | nn.functional.pad(counted, (1, 0), value=bool(seen))).all()
        require(
            bool(right),
            "position_ids must count the tokens of each document, from 0 or on from what the cache holds: leave them out, "
            f"positions follow from attention_mask; got {position_ids.tolist()!r:.80}",
        )
    return begins


def _at_real(begins: Tensor, real: Tensor) -> Tensor:
    """A beginning at a padded slot is one at the real slot after it."""
    marks = begins.cumsum(1)  # a real slot begins a document if this has grown since the real slot before it
    before = torch.zeros_like(marks)
    before[:, 1:] = (marks * real).cummax(dim=1).values[:, :-1]
    return real & (marks > before)


def unpacked(x: Tensor | None, table: Tensor) -> Tensor | None:
    """(B, N, ...) as documents (R, L, ...); anything where there is none."""
    return None if x is None else x.flatten(0, 1)[table.clamp_min(0)]


def put_back(y: Tensor, table: Tensor, into: Tensor) -> Tensor:
    """Outputs (R, L, D) at their slots of (B, N, D)."""
    chosen = table >= 0
    return into.flatten(0, 1).index_put((table[chosen],), y[chosen].to(into.dtype)).view_as(into)
