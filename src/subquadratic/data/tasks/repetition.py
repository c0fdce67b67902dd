"""Copy and mirror: a random sequence, a separator, and the sequence again, forwards or backwards.

    ^ c f a a | c f a a         (copy; ^ only where the length is even)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...core.errors import require, require_positive

START, SEPARATOR, FIRST = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Copy:
    """`symbols` different ones, drawn independently; the second half is scored."""

    length: int
    symbols: int = 64

    def __post_init__(self) -> None:
        require_positive(symbols=self.symbols)
        require(self.length >= 3, f"length must be at least 3 (a symbol, a separator, the symbol again), got {self.length}")

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        return ("_", "^", "|", *(f"s{i}" for i in range(self.symbols)))

    def sample(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        count = (self.length - 1) // 2
        sequence = rng.integers(FIRST, FIRST + self.symbols, size=count)
        start = [START] * (self.length - 1 - 2 * count)
        tokens = np.concatenate([start, sequence, [SEPARATOR], self.repeated(sequence)]).astype(np.int64)
        return tokens, np.arange(self.length) >= self.length - count

    def repeated(self, sequence: NDArray[np.int64]) -> NDArray[np.int64]:
        return sequence


@dataclass(frozen=True, kw_only=True)
class Mirror(Copy):
    """The second half runs backwards, so that the distance to what is copied grows from one to the whole length."""

    def repeated(self, sequence: NDArray[np.int64]) -> NDArray[np.int64]:
        return sequence[::-1]
