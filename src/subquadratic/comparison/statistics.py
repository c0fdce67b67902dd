"""Means and paired differences over seeds, with intervals, and which differences count.

A verdict between two entries is given by one rule, whatever is compared (losses over seeds, logarithms of times over rounds): a paired
t-test over what both have in common, at 5 % for *all pairs of entries together* by Holm's step-down (Holm 1979). All pairs, and not only
those with the best entry: which one is best is seen in the same data, and the best of seven equal entries would beat another one too often.

The interval of a difference has the level at which Holm's procedure tests that pair. So it excludes zero exactly where there is a verdict,
and holds with 95 % at least for each pair by itself; of two entries alone it is the plain paired t-interval. The test supposes normal
differences, but neither equal spreads nor independent entries: all entries see the same data in the same order with the same seed.

Seeds are not all that chance decides: other rows would have given other scores. Where the variance of that is known (`sampling`, of
accuracies), it is added to that of the seeds, as if the rows of two entries were drawn apart; both are right on the same rows more often
than that, so such an interval is too wide rather than too narrow.

No interval and no verdict come of one seed, nor of differences without any spread (`constant`): scores that can take few values, as
accuracies on a few rows do, agree by chance.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
ROUNDING = 1e-12  # of the values: a spread below it is no spread
Scores = Mapping[str, Mapping[int, float]]
"""By entry, then by seed (or round)."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The variance of a mean over `rows` rows, had other rows been drawn."""

    variance: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds. `spread` is the sample standard deviation, `low` and `high` the ends of the t-interval for the mean: None for one
    value."""

    count: int
    mean: float
    spread: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True, kw_only=True)
class Difference(Estimate):
    """`first` less `second`, over the `count` seeds that both have."""

    first: str
    second: str
    level: float = LEVEL
    """Of the interval: more than 95 % where several pairs were tested."""
    p: float | None = None
    """Of the paired t-test, for this pair alone."""
    error: float | None = None
    """Standard error of the mean, and `freedom` the degrees of freedom of its t."""
    freedom: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether the interval excludes zero: there is a verdict."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def constant(self) -> bool:
        """Whether it is the same in every one of several seeds, so that nothing tells how much it would vary."""
        return self.count > 1 and self.p is None

    def within(self, margin: float) -> bool:
        """Whether the interval excludes a difference of `margin` or more: evidence that both are about equal."""
        return self.low is not None and self.high is not None and -margin < self.low and self.high < margin

    def reversed(self) -> Difference:
        """`second` less `first`."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return dataclasses.replace(self, mean=-self.mean, low=low, high=high, first=self.second, second=self.first)


def estimate(values: Iterable[float | None], *, level: float = LEVEL, sampling: Sampling | None = None) -> Estimate | None:
    """Mean, spread and t-interval of the values that are finite numbers; None where none is. No interval of one value, nor of values that
    are all the same."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return None
    count, mean = len(found), math.fsum(found) / len(found)
    if count == 1:
        return Estimate(count=1, mean=mean)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (count - 1))
    error, freedom = _error(spread, count, [] if sampling is None else [sampling])
    if error <= ROUNDING * max(map(abs, found)):
        return Estimate(count=count, mean=mean, spread=spread)
    half = t_quantile(level, freedom) * error
    return Estimate(count=count, mean=mean, spread=spread, low=mean - half, high=mean + half)


def differences(scores: Scores, sampling: Mapping[str, Sampling] | None = None) -> list[Difference]:
    """Of every two entries that have a seed in common, first less second in the order given, with Holm's verdict over all of them.

    Args:
        sampling: by entry, how much its mean varies with the rows that were drawn.
    """
    rows = sampling or {}
    plain = [found for first, second in itertools.combinations(scores, 2) if (found := _paired(first, second, scores, rows)) is not None]
    tested = sorted((pair for pair in plain if pair.p is not None), key=lambda pair: pair.p or 0.0)
    levels: dict[tuple[str, str], float] = {}
    level, rejecting = LEVEL, True
    for rank, pair in enumerate(tested):
        if rejecting:  # after the first pair that stands, all are held to its level
            level = 1 - (1 - LEVEL) / (len(tested) - rank)
            rejecting = (pair.p or 0.0) < 1 - level
        levels[pair.first, pair.second] = level
    return [_at(pair, levels.get((pair.first, pair.second), LEVEL)) for pair in plain]


def between(found: Sequence[Difference], first: str, second: str) -> Difference | None:
    """`first` less `second` among the differences, whichever way round they have it."""
    for pair in found:
        if (pair.first, pair.second) == (first, second):
            return pair
        if (pair.first, pair.second) == (second, first):
            return pair.reversed()
    return None


def unpaired(first: Sequence[float], second: Sequence[float], *, tests: int = 1) -> Estimate | None:
    """The mean of `first` less that of `second`, which have nothing in common, with Welch's interval at 95 % for `tests` such differences
    together (Bonferroni). No interval where one side has one value, or neither has any spread."""
    a, b = estimate(first), estimate(second)
    if a is None or b is None:
        return None
    mean, count = a.mean - b.mean, min(a.count, b.count)
    if (not a.spread and not b.spread) or a.spread is None or b.spread is None:
        return Estimate(count=count, mean=mean)
    parts = a.spread**2 / a.count, b.spread**2 / b.count
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (a.count - 1) + parts[1] ** 2 / (b.count - 1))
    half = t_quantile(1 - (1 - LEVEL) / tests, freedom) * math.sqrt(sum(parts))
    return Estimate(count=count, mean=mean, spread=math.sqrt(sum(parts)), low=mean - half, high=mean + half)


def t_quantile(level: float, freedom: float) -> float:
    """So many standard errors to each side hold Student's t with the probability `level`."""
    from scipy.special import stdtrit  # lighter than scipy.stats, which a page after every run would wait for

    return float(stdtrit(freedom, (1 + level) / 2))


def _paired(first: str, second: str, scores: Scores, sampling: Mapping[str, Sampling]) -> Difference | None:
    common = sorted(set(scores[first]) & set(scores[second]))
    found = [scores[first][seed] - scores[second][seed] for seed in common]
    found = [value for value in found if math.isfinite(value)]
    whole = estimate(found)
    if whole is None:
        return None
    plain = Difference(count=whole.count, mean=whole.mean, spread=whole.spread, first=first, second=second)
    least = ROUNDING * max(abs(scores[name][seed]) for name in (first, second) for seed in common if math.isfinite(scores[name][seed]))
    if whole.spread is None or whole.spread <= least:
        return plain
    from scipy.special import stdtr

    error, freedom = _error(whole.spread, whole.count, [sampling[name] for name in (first, second) if name in sampling])
    return dataclasses.replace(plain, p=float(2 * stdtr(freedom, -abs(whole.mean) / error)), error=error, freedom=freedom)


def _error(spread: float, count: int, sampling: Sequence[Sampling]) -> tuple[float, float]:
    """The standard error of a mean over seeds and rows, and its degrees of freedom by Welch and Satterthwaite."""
    parts = [(spread**2 / count, count - 1), *((each.variance, max(each.rows - 1, 1)) for each in sampling)]
    whole = math.fsum(variance for variance, _ in parts)
    below = math.fsum(variance**2 / freedom for variance, freedom in parts)
    return math.sqrt(whole), whole**2 / below if below else count - 1


def _at(pair: Difference, level: float) -> Difference:
    """With the interval of that level, where it has one."""
    if pair.p is None or pair.error is None:
        return pair
    half = t_quantile(level, pair.freedom) * pair.error
    return dataclasses.replace(pair, low=pair.mean - half, high=pair.mean + half, level=level)
