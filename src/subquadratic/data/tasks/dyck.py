"""Brackets of several kinds, nested to a limited depth (Dyck-(k, m) of Hewitt et al., arXiv 2010.07515), to be closed.

    ( [ ] { ( = ) } )           (a start sign before it where the length is even)

Whether a bracket opens or closes is drawn at random, which kind opens too. What is known is scored: a bracket that must
close because the depth is at its limit, and those after the `=`, which says that from here on everything is closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...core.errors import require, require_positive

START, CLOSE_ALL, FIRST = 1, 2, 3
PLAIN = ("()", "[]", "{}", "<>")


@dataclass(frozen=True, kw_only=True)
class Dyck:
    """`kinds` of brackets, at most `depth` open at a time (by default 16, or what the length allows)."""

    length: int
    kinds: int = 4
    depth: int | None = None

    def __post_init__(self) -> None:
        require_positive(kinds=self.kinds, depth=self.depth)
        require(self.length >= 3, f"length must be at least 3, as in ( = ), got {self.length}")
        most = (self.length - 1) // 2
        if self.depth is None:
            object.__setattr__(self, "depth", min(16, most))
        require((self.depth or 1) <= most, f"depth must be at most (length - 1) // 2 = {most}, got {self.depth}")

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        pairs = [PLAIN[i] if i < len(PLAIN) else (f"<{i}", f"{i}>") for i in range(self.kinds)]
        return ("_", "^", "=", *(pair[0] for pair in pairs), *(pair[1] for pair in pairs))

    def sample(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        limit = self.depth or 1
        # Never left at its limit, so that a bracket at the limit is always followed by its end.
        left = int(rng.integers(1, max(2, limit)))
        brackets = (self.length - 1) // 2 * 2 - left  # before the sign
        kinds = rng.integers(self.kinds, size=brackets).tolist()
        opens = rng.random(brackets).tolist()
        tokens = [START] if self.length % 2 == 0 else []
        scored = [False] * len(tokens)
        stack: list[int] = []
        for i, (kind, draw) in enumerate(zip(kinds, opens, strict=True)):
            after = brackets - i - 1
            may_open = len(stack) < limit and len(stack) + 1 - left <= after
            may_close = bool(stack) and left - (len(stack) - 1) <= after
            scored.append(len(stack) == limit > 1)
            if may_open and (draw < 0.5 or not may_close):
                tokens.append(FIRST + kind)
                stack.append(kind)
            else:
                tokens.append(FIRST + self.kinds + stack.pop())
        closing = [FIRST + self.kinds + kind for kind in reversed(stack)]
        tokens += [CLOSE_ALL, *closing]
        scored += [False, *(True for _ in closing)]
        return np.array(tokens, dtype=np.int64), np.array(scored)
