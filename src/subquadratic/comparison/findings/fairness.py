"""Whether what was to be equal is: parameters, what each run got, and the rows that scores are of."""

from __future__ import annotations

from collections.abc import Callable

from ..observed import rows_of, scored, scores, tried
from ..results import Comparison, Trial
from ..statistics import estimate
from ..wording import label, listed, sentence

PARAMETERS = 0.02  # as the options promise
GIVEN = 0.05  # of time, tokens or FLOPs: a last step, and its rounding
STEPS = 1.15  # in equal time, between the seeds of one model: more is another program's work
ROWS = ("rows", "windows")


def target(comparison: Comparison) -> int | None:
    """The parameters that all were to have."""
    asked = comparison.settings.get("parameters")
    return asked if isinstance(asked, int) and asked > 0 else None


def unequal_parameters(comparison: Comparison) -> dict[str, float]:
    """By entry that differs by more than 2 % from what all were to have: its parameters over that, less one."""
    asked = target(comparison)
    if asked is None:
        return {}
    known = {name: comparison.entry(name).parameters for name in _shown(comparison)}
    return {name: count / asked - 1 for name, count in known.items() if count and abs(count / asked - 1) > PARAMETERS}


def parameters_sentence(comparison: Comparison) -> str | None:
    """Who is larger or smaller than the others."""
    asked, found = target(comparison), unequal_parameters(comparison)
    if asked is None or not found:
        return None
    each = [f"{label(comparison, name)} has {comparison.entry(name).parameters:,} ({off:+.0%})" for name, off in found.items()]
    others = f", where {asked:,} were asked for" if set(found) >= set(_shown(comparison)) else f"; the others have about {asked:,}"
    return sentence(f"Parameters are not equal: {listed(each)}{others}")


def budget_sentence(comparison: Comparison) -> str | None:
    """Where runs did not get the same of what was to be equal."""
    equal = comparison.settings.get("equal", "time")
    read: Callable[[Trial], float] = {
        "tokens": lambda trial: float(trial.tokens),
        "flops": lambda trial: trial.flops,
    }.get(str(equal), lambda trial: trial.seconds)
    means = {}
    for name in scores(comparison):
        whole = estimate(read(trial) for trial in comparison.done(name) if scored(trial) and read(trial) > 0)
        if whole is not None:
            means[name] = whole.mean
    if len(means) < 2 or max(means.values()) <= (1 + GIVEN) * min(means.values()):
        return None
    most, least = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    what = {"time": "Training time", "tokens": "Training tokens", "flops": "Training FLOPs"}[str(equal)]
    verb = "is" if equal == "time" else "are"
    more = means[most] / means[least] - 1
    return sentence(f"{what} {verb} not equal: {label(comparison, most)} had {more:.0%} more than {label(comparison, least)}")


def uneven_steps(comparison: Comparison) -> dict[str, list[int]]:
    """By entry: the steps of its runs, where they differ in equal time by more than a quiet machine makes them."""
    if comparison.settings.get("equal", "time") != "time":
        return {}
    steps = {name: [trial.steps for trial in comparison.done(name) if scored(trial) and trial.steps > 0] for name in tried(comparison)}
    return {name: counts for name, counts in steps.items() if len(counts) > 1 and max(counts) > STEPS * min(counts)}


def steps_sentence(comparison: Comparison) -> str | None:
    """The machine was not the comparison's alone."""
    found = uneven_steps(comparison)
    if not found:
        return None
    each = [f"{label(comparison, name)} {min(counts):,} to {max(counts):,}" for name, counts in found.items()]
    return (
        f"In equal time the runs of one model made very different numbers of steps ({listed(each)}): something else used the machine, and "
        "equal time was not equal work. Repeat on an idle machine, or with --equal tokens."
    )


def scored_rows(comparison: Comparison) -> str | None:
    """`71 of 256 validation rows`, or of windows of text."""
    known, there = rows(comparison), comparison.data.get("validation_items")
    if known is None:
        return None
    what = ROWS[comparison.data.get("kind") == "language"]
    return f"{known:,} of {there:,} validation {what}" if isinstance(there, int) else f"{known:,} validation {what}"


def rows(comparison: Comparison) -> int | None:
    """How many rows or windows every score is of; None where that was not kept."""
    items = (comparison.settings.get("conditions") or {}).get("items")
    found = [rows_of(comparison, trial) for trial in comparison.trials if scored(trial) and trial.predicted]
    return min(found) if isinstance(items, int) and found else None


def rates_at_the_edge(comparison: Comparison) -> dict[str, str]:
    """By entry whose chosen learning rate is the highest or the lowest of those tried: which of the two."""
    found = {}
    for name in tried(comparison):
        entry = comparison.entry(name)
        rates = [rate.rate for rate in entry.rates]
        if len(rates) > 1 and entry.rate in (min(rates), max(rates)):
            found[name] = "highest" if entry.rate == max(rates) else "lowest"
    return found


def _shown(comparison: Comparison) -> list[str]:
    """Entries with a score; before there are any, all that were not skipped."""
    return list(scores(comparison)) or tried(comparison)
