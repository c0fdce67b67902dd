"""A text as tokens in one or several arrays, perhaps mapped from disk, of which a piece at a time is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.binning import Binned


class Text:
    """Tokens `parts`, one after another, in which documents begin at `starts`.

    Args:
        parts: integer arrays.
        starts: ascending places; the text before the first one is a document too, whose beginning is not there.
    """

    def __init__(self, parts: Sequence[NDArray[Any]], starts: Sequence[int] | NDArray[np.int64] = ()) -> None:
        self.parts = [part for part in parts if len(part)]
        self.starts = np.unique(np.asarray(starts, dtype=np.int64))
        self._ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def cut(self, length: int) -> Text:
        """The first `length` tokens."""
        parts, left = [], length
        for part in self.parts:
            parts.append(part.cut(left) if isinstance(part, Binned) else part[:left])
            left -= len(parts[-1])
        return Text(parts, self.starts[self.starts < length])

    def after(self, token: int) -> Text:
        """The same with a token before it, where its beginning is there; itself where it is not."""
        if not len(self.starts) or self.starts[0] > 0:
            return self
        return Text([np.array([token]), *self.parts], np.concatenate([[0], self.starts[1:] + 1]))

    def read(self, start: int, stop: int) -> Tensor:
        """Tokens from `start` up to `stop`, int64."""
        found = []
        for part, end in zip(self.parts, self._ends, strict=True):
            first = int(end) - len(part)
            if first < stop and start < end:
                found.append(part[max(start - first, 0) : stop - first].astype(np.int64))
        return torch.from_numpy(np.concatenate(found)) if found else torch.empty(0, dtype=torch.int64)

    def documents(self) -> Iterator[tuple[int, int, bool]]:
        """(start, stop, whether its beginning is there) of each document."""
        starts = [int(start) for start in self.starts if start < len(self)]
        whole = [True] * len(starts)
        if not starts or starts[0] > 0:
            starts, whole = [0, *starts], [False, *whole]
        for start, stop, beginning in zip(starts, [*starts[1:], len(self)], whole, strict=True):
            if stop > start:
                yield start, stop, beginning
