"""Which entry predicts best, how the others stand to exact attention, and who reaches its end sooner."""

from __future__ import annotations

import math

from ..observed import compared, exact, interpolated, ranked, sampling, scored, scores, tried
from ..results import Comparison, Trial
from ..statistics import LEVEL, Difference, Estimate, between, estimate
from ..wording import budget, digits, factors, gap, label, labels, listed, sentence, value
from .learned import learned, none_learned, nothing_learned

NOTHING = "No run has a result yet"


def headline(comparison: Comparison) -> str:
    """The answer in one or two sentences."""
    found = scores(comparison)
    if not found:
        return sentence(NOTHING)
    pairs, order = compared(comparison), ranked(comparison, found)
    best, rest = order[0], order[1:]
    where = f"At {_length(comparison)} on this machine, after {budget(comparison)}"
    reached = f"{label(comparison, best)} reaches {score(comparison, best)}"
    if nothing_learned(comparison):
        return sentence(f"{where}, {_nothing(comparison, order)}")
    if not rest:
        return sentence(f"{where}, {reached}; no other model has a result to compare with")
    if all(pair.low is None for pair in pairs if best in (pair.first, pair.second)):
        return f"{where}, {_unsettled(comparison, pairs, order)}"
    open_ = [name for name in rest if not is_better(comparison, pairs, best, name)]
    if open_:
        others = listed([f"{label(comparison, name)} ({score(comparison, name, with_unit=False)})" for name in open_])
        text = f"{where}, {reached}. That it is better than {others} cannot be said: {why_open(comparison, pairs, best, open_)}"
    else:
        text = f"{where}, {reached}, the {_most(comparison)} of {_how_many(comparison, order)}"
    base = exact(comparison)
    if base in found and base != best and base not in open_:
        pair = between(pairs, best, base)
        return sentence(f"{text}{'. It is' if open_ else ','} {gap(pair, comparison.unit)} better than exact attention") if pair else text
    pair = between(pairs, best, rest[0])
    if not open_ and pair is not None:
        return sentence(f"{text}, {gap(pair, comparison.unit)} better than {label(comparison, rest[0])}, the next")
    return sentence(text)


def against_exact(comparison: Comparison) -> list[str]:
    """How every entry stands to exact attention, or to the best where exact attention has no result."""
    found = scores(comparison)
    pairs, order = compared(comparison), ranked(comparison, found)
    base = exact(comparison)
    base = base if base in found else next(iter(order), None)
    if base is None or not any(pair.low is not None for pair in pairs) or nothing_learned(comparison):
        return []
    sides: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for name in order:
        pair = between(pairs, name, base)
        if name == base or pair is None or pair.low is None:
            continue
        side = verdict(comparison, pair)
        by = f"{label(comparison, name)} by {gap(pair, comparison.unit)}"
        sides[side].append(by if side != "open" else f"{label(comparison, name)} ({_range(comparison, pair)})")
    what = label(comparison, base)
    lines = [f"{side.capitalize()} than {what}: {listed(sides[side])}." for side in ("better", "worse") if sides[side]]
    if sides["open"]:
        few = all(pair.count == 2 for pair in pairs if pair.low is not None)
        chance = _chance(comparison)
        differ = "two seeds are too few" if few else f"the difference between {what} and each of these is within what {chance} make"
        lines.append(f"No verdict against {what}, as {differ}: {listed(sides['open'])}.")
    return lines


def verdict(comparison: Comparison, pair: Difference) -> str:
    """ "better" or "worse", of the first than the second, or "open"."""
    if not pair.counts:
        return "open"
    return "better" if (pair.mean > 0) == comparison.more_is_better else "worse"


def sooner(comparison: Comparison) -> dict[str, str]:
    """By entry: it reaches the last validation of exact attention in less of its training time."""
    base = exact(comparison)
    return {name: text for name in _rivals(comparison) if (text := _reaching(comparison, name, base or "")) is not None}


def later(comparison: Comparison) -> dict[str, str]:
    """By entry: exact attention reaches the entry's last validation in less time."""
    base = exact(comparison)
    return {name: text for name in _rivals(comparison) if (text := _reaching(comparison, base or "", name)) is not None}


def _rivals(comparison: Comparison) -> list[str]:
    """Those whose learning can be set beside that of exact attention: who has not learned is nowhere soon."""
    able, base = learned(comparison), exact(comparison)
    return [name for name in able if name != base] if base in able else []


def share_of_time(comparison: Comparison, name: str, other: str, *, tests: int = 1) -> Estimate | None:
    """The logarithm of the time in which an entry first has what `other` has at its end, over the time in which the other first has it,
    with an interval over common seeds for `tests` such shares together. None where a run never gets there, or had it before it was
    trained."""
    runs = {trial.seed: trial for trial in comparison.done(name) if scored(trial) and trial.curve}
    ends = {trial.seed: trial for trial in comparison.done(other) if scored(trial) and trial.curve}
    logs = []
    for seed in sorted(set(runs) & set(ends)):
        target = ends[seed].curve[-1].value
        at, theirs = (_first_time(trial, target, more=comparison.more_is_better) for trial in (runs[seed], ends[seed]))
        if at is None or theirs is None or theirs <= 0 or at <= 0:
            return None
        logs.append(math.log(at / theirs))
    return estimate(logs, level=1 - (1 - LEVEL) / tests)


def score(comparison: Comparison, name: str, *, with_unit: bool = True) -> str:
    """The mean of an entry in words."""
    whole = estimate(scores(comparison)[name].values())
    assert whole is not None  # an entry without a number has no scores
    return value(whole.mean, comparison.unit, with_unit=with_unit)


def _reaching(comparison: Comparison, name: str, other: str) -> str | None:
    """A sentence where the interval, for both directions of all entries together, excludes that it takes as long."""
    found = share_of_time(comparison, name, other, tests=2 * max(1, len(scores(comparison)) - 1))
    if found is None or found.high is None or found.high >= 0:
        return None
    what = f"{label(comparison, name)} reaches what {label(comparison, other)} has at the end of its training"
    return sentence(f"{what} in {factors(found)} of the time that {label(comparison, other)} needs for it")


def _first_time(trial: Trial, target: float, *, more: bool) -> float | None:
    """When the curve first is as good as `target`, on straight lines between validations."""
    line = [(point.seconds, point.value) for point in trial.curve]
    for index, (seconds, found) in enumerate(line):
        if found >= target if more else found <= target:
            if index == 0:
                return seconds
            before, worse = line[index - 1]  # validations are on a sample of the data: a straight line between two is as good as any
            return interpolated(sorted([(worse, before), (found, seconds)]), target)
    return None


def is_better(comparison: Comparison, pairs: list[Difference], name: str, other: str) -> bool:
    """Whether that is decided. A mean over more seeds than the two have in common decides nothing."""
    pair = between(pairs, name, other)
    return pair is not None and verdict(comparison, pair) == "better"


def why_open(comparison: Comparison, pairs: list[Difference], best: str, names: list[str]) -> str:
    """Why it is not said that the best is better than these."""
    found = {name: between(pairs, best, name) for name in names}
    ahead = [name for name, pair in found.items() if pair is not None and verdict(comparison, pair) == "worse"]
    constant = [name for name, pair in found.items() if pair is not None and pair.constant]
    with_interval = [name for name, pair in found.items() if pair is not None and pair.low is not None and name not in ahead]
    without = [name for name in names if name not in (*ahead, *constant, *with_interval)]
    parts = []
    if with_interval:
        of = f" to {labels(comparison, with_interval)}" if len(with_interval) < len(names) else ""
        is_are = f"difference{of} is" if len(with_interval) == 1 else f"differences{of} are"
        few = all(pair is not None and pair.count == 2 for name, pair in found.items() if name in with_interval)
        parts.append(f"two seeds are too few to tell{of}" if few else f"the {is_are} within what {_chance(comparison)} make")
    for name in constant:
        pair = found[name]
        assert pair is not None
        same = f"the same difference to {label(comparison, name)} ({gap(pair, comparison.unit)})"
        parts.append(f"every seed has {same}, which gives no interval")
    if without:
        have = "has" if len(without) == 1 else "have"
        parts.append(f"{labels(comparison, without)} {have} fewer than two seeds in common with {label(comparison, best)}")
    if ahead:
        parts.append(f"over the seeds in common {labels(comparison, ahead)} {'is' if len(ahead) == 1 else 'are'} better")
    return ", and ".join(parts)


def _chance(comparison: Comparison) -> str:
    return "seeds and rows" if comparison.more_is_better and sampling(comparison) else "seeds"


def _nothing(comparison: Comparison, order: list[str]) -> str:
    return (
        f"{none_learned(comparison)}: nothing here tells which is better, so train longer (--budget) or on more data. "
        f"Measured: {_measured(comparison, order)}"
    )


def _measured(comparison: Comparison, order: list[str]) -> str:
    return listed([f"{label(comparison, name)} {score(comparison, name, with_unit=i == 0)}" for i, name in enumerate(order)])


def _unsettled(comparison: Comparison, pairs: list[Difference], order: list[str]) -> str:
    """Of runs that no interval can be made of."""
    measured = f"Measured: {_measured(comparison, order)}."
    if all(len(by_seed) == 1 for by_seed in scores(comparison).values()):
        return f"no verdict is possible: one seed does not tell a difference from chance (--seeds 3 would). {measured}"
    if any(pair.constant for pair in pairs if order[0] in (pair.first, pair.second)):
        why = why_open(comparison, pairs, order[0], order[1:])
        return f"there is no verdict between {label(comparison, order[0])} and the others: {why}. {measured}"
    few = f"{label(comparison, order[0])}, the {_most(comparison)} so far, shares fewer than two finished seeds with any other model"
    return f"there is no verdict: {few}. {measured}"


def _how_many(comparison: Comparison, order: list[str]) -> str:
    without = len(tried(comparison)) - len(order)
    return f"the {len(order)} models that have a result" if without else f"{len(order)} models"


def _most(comparison: Comparison) -> str:
    return "highest" if comparison.more_is_better else "lowest"


def _range(comparison: Comparison, pair: Difference) -> str:
    places, scale, word = (1, 100, " points") if comparison.unit == "accuracy" else (digits(pair.half), 1, "")
    assert pair.low is not None and pair.high is not None
    return f"{pair.low * scale:+.{places}f} to {pair.high * scale:+.{places}f}{word}"


def _length(comparison: Comparison) -> str:
    length = comparison.settings.get("length")
    return "this length" if length is None else f"{length:,} tokens"
