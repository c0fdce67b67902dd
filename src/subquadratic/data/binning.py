"""Bins of a series of numbers, found on its training side, and the series as tokens of these bins.

| `binning`    | bins                                                                                                  |
|--------------|-------------------------------------------------------------------------------------------------------|
| `"quantile"` | equally many of the training numbers, two at least, fall into each; frequent ones have a bin of their own |
| `"mu_law"`   | narrow around zero and wide far from it, up to the largest training number: ITU-T G.711, for waveforms |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .mapping import place_in_file
from .tokenizers.values import LARGEST, NumberTokenizer

BINNINGS = ("quantile", "mu_law")
LEAST = 2  # numbers for each bin, on average: of a single one there is nothing to be learned
SAMPLE = 1 << 22  # numbers, evenly spread, that bins are found from


@dataclass(frozen=True, kw_only=True)
class Binning:
    """How bins are to be found: at most `bins` of them, of the numbers or (`difference`) of the change from one to the next.

    Raises:
        ValueError: a value out of range.
    """

    bins: int
    binning: str = "quantile"
    difference: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= LARGEST:
            raise ValueError(f"bins must be from 2 to {LARGEST:,}, got {self.bins}")
        if self.binning not in BINNINGS:
            raise ValueError(f"binning must be one of {', '.join(BINNINGS)}, got {self.binning!r}")

    def fit(self, numbers: NDArray[np.float64]) -> NumberTokenizer:
        """The bins of `numbers`, in which NaN separates documents; of a long series, those of some four million spread over it.

        Raises:
            ValueError: all numbers are equal, or there are none.
        """
        step = max(1, -(-len(numbers) // SAMPLE))
        if self.difference:
            found = np.array(numbers[1:][::step]) - numbers[:-1][::step]
        else:
            found = np.array(numbers[::step])
        found = np.sort(found[~np.isnan(found)])
        if not len(found) or found[0] == found[-1]:
            what = "changes from one number to the next" if self.difference else "numbers"
            same = f"all {what} are {found[0]:g}" if len(found) else f"there are no {what}"
            raise ValueError(f"data: {same} on the training side: there is nothing to learn, and bins cannot be found")
        edges = _quantiles(found, max(2, min(self.bins, len(found) // LEAST))) if self.binning == "quantile" else _mu_law(found, self.bins)
        span = float(found[0]), float(found[-1])
        return NumberTokenizer(edges, _centers(found, edges), difference=self.difference, binning=self.binning, span=span)


class Binned:
    """A series as an array of tokens, each found when it is read: `values` float64, perhaps mapped from a file, in which NaN
    separates documents."""

    def __init__(self, values: NDArray[np.float64], tokenizer: NumberTokenizer) -> None:
        self.values, self.tokenizer = values, tokenizer
        self.dtype = tokenizer.bins(np.empty(0)).dtype

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, span: slice | int) -> Any:
        if not isinstance(span, slice):
            place = range(len(self))[span]
            return self[place : place + 1][0]
        start, stop, _ = span.indices(len(self.values))
        if not self.tokenizer.difference:
            return self.tokenizer.bins(np.asarray(self.values[start:stop]))
        return self.tokenizer.bins(self.changes(start, stop))

    def cut(self, length: int) -> Binned:
        """The first `length`."""
        return Binned(self.values[:length], self.tokenizer)

    def changes(self, start: int, stop: int) -> NDArray[np.float64]:
        """From the value before to each of these; 0 for the first value of a document, NaN for what separates two."""
        values = np.asarray(self.values[start:stop])
        if not len(values):
            return values
        before = np.concatenate([self.values[start - 1 : start] if start else [np.nan], values[:-1]])
        return values - np.where(np.isnan(before), values, before)

    def __getstate__(self) -> dict[str, Any]:
        place = place_in_file(self.values)
        return {**self.__dict__, "values": self.values if place is None else place}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.values, dict):
            self.values = np.memmap(mode="r", **self.values)


def _quantiles(found: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Numbers of `found`, ascending, at which bins begin: none at the least one, below which there is nothing."""
    cuts, counts = np.unique(found[np.arange(1, bins) * len(found) // bins], return_counts=True)
    often = np.nextafter(cuts[counts > 1], np.inf)  # those that fill a bin end it as well
    edges = np.unique(np.concatenate([cuts, often]))
    edges = edges[(edges > found[0]) & (edges <= found[-1])]
    return edges if len(edges) else np.nextafter(found[:1], np.inf)


def _mu_law(found: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    scale, mu = max(abs(found[0]), abs(found[-1])), bins - 1
    even = np.linspace(-1, 1, bins + 1)[1:-1]
    return scale * np.sign(even) * np.expm1(np.abs(even) * np.log1p(mu)) / mu


def _centers(found: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the numbers in each bin; the middle of one that is empty."""
    cuts = np.concatenate([[0], np.searchsorted(found, edges), [len(found)]])
    counts = np.diff(cuts)
    sums = np.diff(np.concatenate([[0.0], np.cumsum(found)])[cuts])
    lows, highs = np.concatenate([edges[:1], edges]), np.concatenate([edges, edges[-1:]])
    return np.where(counts > 0, sums / np.maximum(counts, 1), (lows + highs) / 2)
