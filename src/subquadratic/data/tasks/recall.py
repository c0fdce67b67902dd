"""Associative recall with many queries (MQAR; Arora et al., "Zoology", arXiv 2312.04927).

    k3 v9 k7 v2 . . k7 v2 . . . . k3 v9 . .

Pairs of a key and its value, then each key once more, followed by its value, which is scored. Where the keys come again is
drawn from the paper's power law: with a small `power`, soon. The places between are filled with random tokens that are not
keys of this item, so each answer is determined; unlike in the paper, it is part of the text after its key.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...core.errors import require, require_positive


@dataclass(frozen=True, kw_only=True)
class Recall:
    """`pairs` of `keys` different keys and `values` different values."""

    length: int
    pairs: int | None = None
    keys: int = 128
    values: int = 128
    power: float = 0.01

    def __post_init__(self) -> None:
        require_positive(keys=self.keys, values=self.values, pairs=self.pairs)
        pairs = max(1, min(self.length // 16, self.keys)) if self.pairs is None else self.pairs
        object.__setattr__(self, "pairs", pairs)
        require(isinstance(self.power, int | float) and 0 < self.power <= 1, f"power must be above 0 and at most 1, got {self.power!r}")
        require(pairs <= self.keys, f"pairs must be at most keys ({self.keys}), got {pairs}")
        require(self.length >= 4 * pairs, f"length must be at least 4 * pairs = {4 * pairs}, got {self.length}")

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        return ("_", *(f"k{i}" for i in range(self.keys)), *(f"v{i}" for i in range(self.values)))

    def sample(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        pairs = self.pairs or 1
        keys = 1 + rng.choice(self.keys, size=pairs, replace=False)
        values = 1 + self.keys + rng.integers(self.values, size=pairs)
        others = np.setdiff1d(np.arange(1, 1 + self.keys + self.values), keys, assume_unique=True)
        tokens = rng.choice(others, size=self.length)
        tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2] = keys, values
        places = 2 * pairs + 2 * rng.choice(len(self._weights), size=pairs, replace=False, p=self._weights)
        tokens[places], tokens[places + 1] = keys, values
        scored = np.zeros(self.length, dtype=bool)
        scored[places + 1] = True
        return tokens, scored

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        slots = np.arange(1, (self.length - 2 * (self.pairs or 1)) // 2 + 1)
        weights = self.power * slots ** (self.power - 1)
        return weights / weights.sum()
