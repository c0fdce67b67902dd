"""Which entry to take for what: lowest loss, speed of training, memory, and decoding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from ...benchmark.report import seconds
from ...evaluation.report import amount, size
from ..observed import exact, lengths, of_trials, ranked, rounds, scores, tried
from ..results import Comparison
from ..statistics import Difference, Scores, between, differences, estimate
from ..wording import factors, gap, label, labels
from .costs import at_length
from .quality import is_better, score, verdict

UNDECIDED = "no verdict between"
NEAR = 0.02  # costs that differ by less are called equal


@dataclass(frozen=True, kw_only=True)
class Choice:
    """`names` are the entries that serve `purpose` best, as far as that can be told; `who` is what they are called, `text` how well they
    do."""

    purpose: str
    names: list[str]
    who: str
    text: str

    @property
    def line(self) -> str:
        """For a terminal."""
        return f"{self.who}{' ' if self.undecided else ': '}{self.text}"

    @property
    def undecided(self) -> bool:
        return self.who == UNDECIDED


def choices(comparison: Comparison) -> list[Choice]:
    """One for each purpose of which something was measured of two entries."""
    makers: tuple[Callable[[Comparison], Choice | None], ...] = (_for_loss, _for_training, _for_memory, _for_decoding, _for_state)
    return [choice for make in makers if (choice := make(comparison)) is not None]


def _for_loss(comparison: Comparison) -> Choice | None:
    found = scores(comparison)
    purpose = "highest accuracy" if comparison.more_is_better else "lowest loss"
    if len(found) < 2:
        return None
    pairs, order = differences(found), ranked(comparison, found)
    ties = [name for name in order[1:] if not is_better(comparison, pairs, order[0], name)]
    if ties:
        names = [order[0], *ties]
        apart = [pair for name in ties if (pair := between(pairs, order[0], name)) is not None and pair.low is not None]
        why = "the seeds do not tell them apart" if apart else "they have fewer than two seeds in common"
        return Choice(purpose=purpose, names=names, who=UNDECIDED, text=f"{labels(comparison, names)}; {why}")
    pair = between(pairs, order[0], order[1])
    more = "" if pair is None else f", {gap(pair, comparison.unit)} better than {label(comparison, order[1])}, the next"
    return Choice(purpose=purpose, names=order[:1], who=label(comparison, order[0]), text=score(comparison, order[0]) + more)


def _for_training(comparison: Comparison) -> Choice | None:
    length = nearest(comparison, "train_seconds")
    if length is not None:
        found = rounds(comparison, "train_seconds", length)
        return _fastest(
            comparison, f"training speed at {length:,} tokens", found, lambda name: f"{amount(length / _time(found, name))} tokens/s"
        )
    by_seed = {
        name: {trial.seed: math.log(trial.seconds / trial.tokens) for trial in comparison.done(name) if trial.seconds > 0 < trial.tokens}
        for name in scores(comparison)
    }
    by_seed = {name: logs for name, logs in by_seed.items() if logs}
    return _fastest(comparison, "training speed", by_seed, lambda name: f"{amount(1 / _time(by_seed, name))} tokens/s")


def _for_decoding(comparison: Comparison) -> Choice | None:
    found = lengths(comparison, "token_seconds", least=2)
    if not found:
        return None
    times = rounds(comparison, "token_seconds", found[-1])
    choice = _fastest(
        comparison, f"decoding after {found[-1]:,} tokens", times, lambda name: f"{seconds(_time(times, name))} a token", done="decode"
    )
    base = exact(comparison)
    if choice is None or base is None or base in times:
        return choice
    for length in reversed(lengths(comparison, "token_seconds")):  # exact attention did not get as far
        shorter = rounds(comparison, "token_seconds", length)
        pair = between(differences(shorter), base, choice.names[0]) if base in shorter else None
        if pair is not None and pair.counts and pair.mean > 0:
            more = f"; after {length:,} tokens {label(comparison, choice.names[0])} is {factors(pair)} times as fast as exact attention"
            return dataclasses.replace(choice, text=choice.text + more)
    return choice


def _for_memory(comparison: Comparison) -> Choice | None:
    length = nearest(comparison, "train_bytes")
    if length is not None:
        need = {name: at_length(comparison, name, "train_bytes", length) for name in tried(comparison)}
        return _smallest(comparison, f"training memory at {length:,} tokens", need, "above the weights")
    peaks = {name: of_trials(comparison, name, lambda trial: trial.peak_bytes) for name in tried(comparison)}
    return _smallest(
        comparison, "training memory", {name: peak.mean for name, peak in peaks.items() if peak is not None}, "of the whole process"
    )


def _for_state(comparison: Comparison) -> Choice | None:
    found = lengths(comparison, "state_bytes", least=2)
    if not found:
        return None
    need = {name: at_length(comparison, name, "state_bytes", found[-1]) for name in tried(comparison)}
    return _smallest(comparison, f"memory while decoding after {found[-1]:,} tokens", need, "of state")


def nearest(comparison: Comparison, quantity: str) -> int | None:
    """The comparison's length, or the nearest to it at which two entries were measured."""
    found, asked = lengths(comparison, quantity, least=2), comparison.settings.get("length") or 1
    return min(found, key=lambda length: (abs(math.log(length / asked)), length), default=None)


def _time(found: Scores, name: str) -> float:
    """The geometric mean of times given by their logarithms."""
    whole = estimate(found[name].values())
    assert whole is not None
    return math.exp(whole.mean)


def _fastest(comparison: Comparison, purpose: str, found: Scores, rate: Callable[[str], str], done: str = "train") -> Choice | None:
    if len(found) < 2:
        return None
    pairs, order = differences(found), sorted(found, key=lambda name: _time(found, name))
    first = order[0]
    ties = [name for name in order[1:] if (pair := between(pairs, name, first)) is None or not pair.counts or pair.mean < NEAR]
    names = [first, *ties]
    who = labels(comparison, names)
    if any((pair := between(pairs, name, first)) is None or pair.low is None for name in ties):
        text = ", ".join(f"{label(comparison, name)} ({rate(name)})" for name in names)
        return Choice(purpose=purpose, names=names, who=UNDECIDED, text=f"{text}; measured once")
    text = f"about equally fast: {rate(first)}" if ties else rate(first)
    base = exact(comparison)
    other = base if base in found and base not in names else next((name for name in order if name not in names), None)
    pair = None if other is None else between(pairs, other, first)
    if other is not None and pair is not None:
        they = f"{label(comparison, first)} {done}s" if ties else f"it {done}s"
        text += f"; {they} {factors(pair)} times as fast as {label(comparison, other)}"
    return Choice(purpose=purpose, names=names, who=who, text=text + _price(comparison, names))


def _smallest(comparison: Comparison, purpose: str, need: dict[str, float | None], of: str) -> Choice | None:
    known = {name: number for name, number in need.items() if number}
    if len(known) < 2:
        return None
    least = min(known.values())
    names = [name for name, number in known.items() if number <= (1 + NEAR) * least]
    text = f"{size(least)} {of}"
    base = exact(comparison)
    other = base if base in known and base not in names else None
    if other is not None:
        text += f"; {label(comparison, other)} takes {size(known[other])}"
    who = "all alike" if len(names) == len(known) else labels(comparison, names)
    return Choice(purpose=purpose, names=names, who=who, text=text + _price(comparison, names))


def _price(comparison: Comparison, names: list[str]) -> str:
    """What the choice costs in quality, where that is decided."""
    found = scores(comparison)
    if len(names) > 1 or names[0] not in found:
        return "" if len(names) > 1 else "; no run of it has a score"
    order = ranked(comparison, found)
    pair: Difference | None = between(differences(found), names[0], order[0])
    if pair is None or order[0] == names[0] or verdict(comparison, pair) != "worse":
        return ""
    what = "accuracy is" if comparison.more_is_better else "loss is"
    return f"; its {what} {gap(pair, comparison.unit)} worse than that of {label(comparison, order[0])}"
