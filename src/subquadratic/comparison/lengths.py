"""How many tokens rows and pairs have, where batches are padded to their longest."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..training.problems.problem import Problem, evenly

LOOKED_AT = 1024  # rows, spread evenly over the training data


@dataclass(frozen=True)
class Lengths:
    """Tokens of an item: `mean` of its own, without padding; `padded` as a batch has them, a whole number."""

    mean: float
    padded: int


def item_lengths(problem: Problem, batch_size: int) -> Lengths:
    """Of the training data; windows of a text are all alike."""
    first = problem.train[0]
    names = [name for name in ("tokens", "source", "target") if isinstance(first, dict) and name in first]
    if problem.kind == "language" or not names:
        return Lengths(float(problem.tokens), problem.tokens)
    rows = evenly(problem.train, LOOKED_AT)
    found = [[len(row[name]) for name in names] for row in (rows[place] for place in range(len(rows)))]
    batches = [found[start::step] for step in [max(1, len(found) // batch_size)] for start in range(step)]
    padded = sum(sum(map(max, zip(*batch, strict=True))) for batch in batches) / len(batches)
    return Lengths(sum(map(sum, found)) / len(found), min(problem.tokens, math.ceil(padded)))
