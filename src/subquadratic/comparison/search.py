"""Which learning rate to try next: uphill or down from the best so far, the same number of tries for every model."""

from __future__ import annotations

import math
from collections.abc import Mapping

FACTOR = 2.0  # between neighbouring rates; between two that are both worse, its roots


def next_rate(usual: float, scores: Mapping[float, float | None]) -> float:
    """The rate to try after those in `scores`.

    Args:
        usual: the model's default, which is tried first, and its double second.
        scores: what came of each rate so far, the lower the better; None where it diverged.
    """
    if not scores:
        return usual
    if len(scores) == 1:
        return usual * FACTOR if next(iter(scores.values())) is not None else usual / FACTOR
    best = best_rate(scores)
    if best is None:
        return min(scores) / FACTOR
    step = FACTOR
    while True:
        # Beyond the end that the best one stands at, else on its better side first.
        for rate in sorted((best * step, best / step), key=lambda rate: (min(scores) < rate < max(scores), _beside(rate, scores))):
            if not any(math.isclose(rate, tried, rel_tol=1e-3) for tried in scores):
                return rate
        step = math.sqrt(step)


def best_rate(scores: Mapping[float, float | None]) -> float | None:
    """The rate with the lowest score; None where all diverged."""
    finite = {rate: score for rate, score in scores.items() if score is not None and math.isfinite(score)}
    return min(finite, key=lambda rate: finite[rate]) if finite else None


def at_the_end(scores: Mapping[float, float | None]) -> str:
    """ "highest" or "lowest" where the best rate is that of all that were tried, and what lies beyond is not known; else ""."""
    best = best_rate(scores)
    if best is None or len(scores) < 2:
        return ""
    return "highest" if best == max(scores) else "lowest" if best == min(scores) else ""


def _beside(rate: float, scores: Mapping[float, float | None]) -> float:
    """What the nearest rate on that side came to."""
    nearest = min(scores, key=lambda tried: abs(math.log(tried / rate)))
    score = scores[nearest]
    return math.inf if score is None else score
