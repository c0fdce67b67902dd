"""Which entry to take for what: lowest loss, speed of training, memory, and decoding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from ...benchmark.report import seconds
from ...evaluation.report import amount, size
from ..observed import compared, exact, lengths, of_trials, ranked, rounds, scores, speeds, tried
from ..results import Comparison
from ..statistics import Difference, Scores, between, differences, estimate
from ..wording import factors, gap, label, labels, listed
from .costs import at_length
from .learned import none_learned, not_learned, nothing_learned
from .quality import is_better, score, verdict, why_open
from .standings import NEAR

UNDECIDED = "no verdict between"


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
    pairs, order = compared(comparison), ranked(comparison, found)
    if nothing_learned(comparison):
        return Choice(purpose=purpose, names=order, who=UNDECIDED, text=f"{labels(comparison, order)}: {none_learned(comparison)}")
    ties = [name for name in order[1:] if not is_better(comparison, pairs, order[0], name)]
    if ties:
        names = [order[0], *ties]
        return Choice(
            purpose=purpose,
            names=names,
            who=UNDECIDED,
            text=f"{labels(comparison, names)}: {why_open(comparison, pairs, order[0], ties)}",
        )
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
        need = {name: at_length(comparison, name, "train_bytes", length) for name in _asked(comparison)}
        return _smallest(comparison, f"training memory at {length:,} tokens", need, "above the weights")
    peaks = {name: of_trials(comparison, name, lambda trial: trial.peak_bytes) for name in scores(comparison)}
    need = {name: None if peak is None else peak.mean for name, peak in peaks.items()}
    return _smallest(comparison, "training memory", need, "of the whole process")


def _for_state(comparison: Comparison) -> Choice | None:
    found = lengths(comparison, "state_bytes", least=2)
    if not found:
        return None
    need = {name: at_length(comparison, name, "state_bytes", found[-1]) for name in _asked(comparison)}
    return _smallest(comparison, f"memory while decoding after {found[-1]:,} tokens", need, "of state")


def _asked(comparison: Comparison) -> list[str]:
    """Entries that were at least begun to be measured."""
    return [name for name in tried(comparison) if speeds(comparison, name) or name in scores(comparison)]


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
    """The fastest, those about as fast where that is shown, or no verdict where the rounds leave open who is the fastest."""
    if len(found) < 2:
        return None
    apart = _other_sessions(comparison, found)
    if apart and len(found) - len(apart) > 1:  # rounds were interleaved among the others alone
        choice = _fastest(comparison, purpose, {name: times for name, times in found.items() if name not in apart}, rate, done)
        text = listed([f"{label(comparison, name)} ({rate(name)})" for name in apart])
        return None if choice is None else dataclasses.replace(choice, text=f"{choice.text}; timed in another session: {text}")
    pairs, order = differences(found), sorted(found, key=lambda name: _time(found, name))
    first = order[0]
    others = {name: between(pairs, name, first) for name in order[1:]}
    alike = [name for name, pair in others.items() if pair is not None and pair.within(NEAR)]
    open_ = [name for name, pair in others.items() if name not in alike and not (pair is not None and pair.counts and pair.mean > 0)]
    if open_:
        names = [name for name in order if name in (first, *alike, *open_)]
        text = listed([f"{label(comparison, name)} ({rate(name)})" for name in names])
        why = _why_undecided(comparison, open_, others)
        return Choice(purpose=purpose, names=names, who=UNDECIDED, text=f"{text}: {why}{_behind(comparison, names, order)}")
    names = [first, *alike]
    text = f"about equally fast: {rate(first)}" if alike else rate(first)
    base = exact(comparison)
    other = base if base in found and base not in names else next((name for name in order if name not in names), None)
    pair = None if other is None else others[other]
    if other is not None and pair is not None:
        they = f"{label(comparison, first)} {done}s" if alike else f"it {done}s"
        text += f"; {they} {factors(pair)} times as fast as {label(comparison, other)}"
    return Choice(purpose=purpose, names=names, who=labels(comparison, names), text=text + _price(comparison, names))


def _other_sessions(comparison: Comparison, found: Scores) -> list[str]:
    """Those that have no round in common with exact attention, or else with whoever has most to be compared with."""
    together = {name: [other for other in found if set(found[name]) & set(found[other])] for name in found}
    base = exact(comparison)
    middle = max(found, key=lambda name: (len(together[name]), name == base))
    return [name for name in found if name not in together[middle]]


def _why_undecided(comparison: Comparison, names: list[str], others: dict[str, Difference | None]) -> str:
    """Why it is open whether the first is faster than these."""
    apart = [name for name in names if others[name] is None]
    counts = {pair.count for name in names if (pair := others[name]) is not None}
    parts = ["timed in different sessions"] if apart else []
    if counts:
        parts.append("measured once" if counts == {1} else f"{min(counts)} measurements do not tell them apart")
    return " and ".join(parts)


def _behind(comparison: Comparison, names: list[str], order: list[str]) -> str:
    """Those that are slower than the first for certain."""
    rest = [name for name in order if name not in names]
    return f"; slower than {label(comparison, names[0])}: {labels(comparison, rest)}" if rest else ""


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
    unknown = [name for name in need if name not in known]
    if len(names) == len(known):
        who = labels(comparison, names) if unknown else "all alike"
        text = f"alike within {NEAR:.0%}, {text}" if unknown else text
    else:
        who = labels(comparison, names)
    text += f"; not measured: {labels(comparison, unknown)}" if unknown else ""
    return Choice(purpose=purpose, names=names, who=who, text=text + _price(comparison, names))


def _price(comparison: Comparison, names: list[str]) -> str:
    """What the choice costs in quality, where that is decided."""
    found = scores(comparison)
    if len(names) > 1 or names[0] not in found:
        return "" if len(names) > 1 else "; no run of it has a score"
    if not nothing_learned(comparison) and (why := not_learned(comparison, names[0])):
        return f"; {why}"
    order = ranked(comparison, found)
    pair: Difference | None = between(compared(comparison), names[0], order[0])
    if pair is None or order[0] == names[0] or verdict(comparison, pair) != "worse":
        return ""
    what = "accuracy is" if comparison.more_is_better else "loss is"
    return f"; its {what} {gap(pair, comparison.unit)} worse than that of {label(comparison, order[0])}"
