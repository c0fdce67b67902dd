"""Follow variables through a program: the algorithmic task of the Feedback Transformer (Fan et al., arXiv 2002.09402).

    x = 4 ; y = 7 ; if x < y : x ++ ; print x 5 ; y -- ; ...

Statements, each kind as likely as the others: a first assignment, `++`, `--`, a condition before one of these three,
and `print`, after which stands the value: that is scored. Variables hold 1 to 10. As in the authors' generator a
variable is assigned once and then walks by ones; unlike there, the printed value is part of the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...core.errors import require, require_positive
from .listops import Draws

WORDS = ("_", "end", ";", ":", "=", "++", "--", "if", "<", ">", "print")
LARGEST = 10
CODE = {word: index for index, word in enumerate(WORDS)}


@dataclass(frozen=True, kw_only=True)
class Variables:
    """Programs of `variables` variables, with as many statements as fit; the rest is padding."""

    length: int
    variables: int = 3

    def __post_init__(self) -> None:
        require_positive(variables=self.variables)
        require(self.variables <= 100, f"variables must be at most 100, got {self.variables}")
        require(self.length >= 16, f"length must be at least 16 (an assignment, a print, an end), got {self.length}")

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        names = "xyzpr" if self.variables <= 5 else [f"x{i}" for i in range(self.variables)]
        return (*WORDS, *map(str, range(1, LARGEST + 1)), *names[: self.variables])

    def sample(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        draws = Draws(rng)
        while True:
            tokens, scored = self._program(draws)
            if scored:
                break
        padded, known = np.zeros(self.length, dtype=np.int64), np.zeros(self.length, dtype=bool)
        padded[: len(tokens)] = tokens
        known[scored] = True
        return padded, known

    def _program(self, draws: Draws) -> tuple[list[int], list[int]]:
        """Tokens, and the places of printed values."""
        tokens: list[int] = []
        scored: list[int] = []
        values: dict[int, int] = {}
        while True:
            statement, after = self._statement(draws, values)
            if len(tokens) + len(statement) + 1 > self.length:
                return [*tokens, CODE["end"]], scored
            if statement[0] == CODE["print"]:
                scored.append(len(tokens) + 2)
            tokens += statement
            values = after

    def _statement(self, draws: Draws, values: dict[int, int]) -> tuple[list[int], dict[int, int]]:
        """The next statement, and the variables after it; kinds that cannot be now are drawn again."""
        while True:
            kind = ("=", "++", "--", "if", "print")[draws.below(5)]
            if kind == "print" and values:
                name = self._one_of(draws, values)
                return [CODE["print"], self._variable(name), _number(values[name]), CODE[";"]], values
            if kind == "if" and values:
                name = self._one_of(draws, values)
                others = [other for other in values if other != name]
                other = others[draws.below(len(others))] if others and draws.uniform() < 0.5 else None
                number = 1 + draws.below(LARGEST) if other is None else values[other]
                less = draws.uniform() < 0.5
                holds = values[name] < number if less else values[name] > number
                inner, after = self._change(draws, values, ("=", "++", "--")[draws.below(3)])
                if inner:
                    right = _number(number) if other is None else self._variable(other)
                    head = [CODE["if"], self._variable(name), CODE["<" if less else ">"], right, CODE[":"]]
                    return head + inner, after if holds else values
            elif kind in ("=", "++", "--"):
                statement, after = self._change(draws, values, kind)
                if statement:
                    return statement, after

    def _change(self, draws: Draws, values: dict[int, int], kind: str) -> tuple[list[int], dict[int, int]]:
        """An assignment or a step; empty where none of the kind is possible."""
        if kind == "=":
            free = [name for name in range(self.variables) if name not in values]
            if not free:
                return [], values
            name, number = free[draws.below(len(free))], 1 + draws.below(LARGEST)
            return [self._variable(name), CODE["="], _number(number), CODE[";"]], {**values, name: number}
        step = 1 if kind == "++" else -1
        free = [name for name, value in values.items() if 1 <= value + step <= LARGEST]
        if not free:
            return [], values
        name = free[draws.below(len(free))]
        return [self._variable(name), CODE[kind], CODE[";"]], {**values, name: values[name] + step}

    def _one_of(self, draws: Draws, values: dict[int, int]) -> int:
        return list(values)[draws.below(len(values))]

    def _variable(self, name: int) -> int:
        return len(WORDS) + LARGEST + name


def _number(value: int) -> int:
    return len(WORDS) + value - 1
