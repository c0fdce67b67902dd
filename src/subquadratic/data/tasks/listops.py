"""ListOps (Nangia and Bowman, arXiv 1804.06028), in the long form of the Long Range Arena: evaluate a nested expression.

    [MAX 4 [MED 1 5 8 ] 2 ]  is  5

MED is the median (of two middle ones their mean, rounded down), SM the sum modulo 10. The class is the value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.errors import require, require_positive

OPERATORS = ("MIN", "MAX", "MED", "SM")
END = 1 + len(OPERATORS)
ZERO = END + 1
NESTING = 0.25  # how often an argument is an expression, as the authors have it


@dataclass(frozen=True, kw_only=True)
class ListOps:
    """Expressions of `min_length` to `length` tokens, nested at most `depth` deep, of 2 to `arguments` arguments.

    Drawn from the authors' distribution over trees until one has such a length.
    """

    length: int
    depth: int = 10
    arguments: int = 10
    min_length: int | None = None

    vocabulary = ("_", *(f"[{name}" for name in OPERATORS), "]", *map(str, range(10)))

    def __post_init__(self) -> None:
        require_positive(depth=self.depth, arguments=self.arguments)
        require(self.arguments >= 2, f"arguments must be at least 2, got {self.arguments}")
        require(self.length >= 8, f"length must be at least 8, got {self.length}")
        if self.min_length is None:
            object.__setattr__(self, "min_length", min(self.length // 4, self._attainable()))
        require_positive(min_length=self.min_length)
        low, most = self.min_length or 1, min(self.length // 2, self._attainable())
        require(low <= most, f"min_length must be at most {most} for length {self.length}, depth {self.depth}, got {low}")

    def sample(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], int]:
        """Tokens (n,) and the value."""
        low = self.min_length or 1
        draws = Draws(rng)
        while True:
            tokens: list[int] = []
            value = self._grow(draws, tokens, 1)
            if value is not None and low <= len(tokens) <= self.length:
                return np.array(tokens, dtype=np.int64), value

    def _grow(self, draws: Draws, tokens: list[int], depth: int) -> int | None:
        """Append an expression; its value, or None as soon as there are too many tokens."""
        operator = draws.below(len(OPERATORS))
        tokens.append(1 + operator)
        values = []
        for _ in range(2 + draws.below(self.arguments - 1)):
            if depth < self.depth and draws.uniform() < NESTING:
                value = self._grow(draws, tokens, depth + 1)
            else:
                value = draws.below(10)
                tokens.append(ZERO + value)
            if value is None or len(tokens) >= self.length:
                return None
            values.append(value)
        tokens.append(END)
        return _evaluate(OPERATORS[operator], values)

    def _attainable(self) -> int:
        """A length that expressions of this depth and breadth reach without luck: one of mean size."""
        branching = NESTING * (self.arguments + 2) / 2
        nodes = sum(branching**level for level in range(self.depth))
        return max(4, int(nodes * (2 + (1 - NESTING) * (self.arguments + 2) / 2)))


class Draws:
    """Random numbers, drawn many at a time since one by one is slow."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.numbers: list[float] = []

    def uniform(self) -> float:
        if not self.numbers:
            self.numbers = self.rng.random(512).tolist()
        return self.numbers.pop()

    def below(self, count: int) -> int:
        return int(self.uniform() * count)


def _evaluate(operator: str, values: list[int]) -> int:
    if operator == "MIN":
        return min(values)
    if operator == "MAX":
        return max(values)
    if operator == "SM":
        return sum(values) % 10
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2
