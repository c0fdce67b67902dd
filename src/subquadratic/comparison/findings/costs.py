"""How long a sequence may be, and what was measured at one length."""

from __future__ import annotations

from ..observed import measured, speeds, tried
from ..results import Comparison, Speed
from ..wording import label, labels, one_line, sentence


def reach(comparison: Comparison, name: str) -> tuple[int, Speed | None] | None:
    """The longest length at which an entry's training step was measured, and the first longer one at which it was not, with its note; None
    where none was measured."""
    found = speeds(comparison, name)
    longest = max((speed.length for speed in found if speed.train_seconds), default=None)
    if longest is None:
        return None
    return longest, next((speed for speed in found if speed.length > longest and speed.note), None)


def fits(comparison: Comparison) -> dict[str, str]:
    """How long a sequence each can be trained on, as far as lengths were tried: by entry; those that end equally stand under the first
    of them. Then of whom nothing could be timed, and why."""
    ends = {name: end for name in tried(comparison) if (end := reach(comparison, name)) is not None}
    lines, late = {}, _out_of_time(comparison, ends)
    for name, (longest, next_) in ends.items():
        if next_ is not None and not _late(next_):
            lines[name] = sentence(f"{label(comparison, name)} {_end(longest, next_)}")
    rest: dict[int, list[str]] = {}
    for name, (longest, next_) in ends.items():
        if next_ is None:
            rest.setdefault(longest, []).append(name)
    for longest, names in sorted(rest.items(), reverse=True):
        lines[names[0]] = sentence(f"{labels(comparison, names)} trained on up to {longest:,} tokens, the longest tried")
    return {**lines, **late, **_untimed(comparison, [name for name in tried(comparison) if name not in ends])}


def _out_of_time(comparison: Comparison, ends: dict[str, tuple[int, Speed | None]]) -> dict[str, str]:
    """One sentence, under the first of them, for all whose longer sequences there was no time to measure."""
    found: dict[int, list[str]] = {}
    for name, (longest, next_) in ends.items():
        if next_ is not None and _late(next_):
            found.setdefault(longest, []).append(name)
    if not found:
        return {}
    each = [f"up to {longest:,} tokens {labels(comparison, names)}" for longest, names in sorted(found.items(), reverse=True)]
    first = min((name for names in found.values() for name in names), key=list(ends).index)
    return {first: f"For longer sequences there was no time; measured were {'; '.join(each)}."}


def _late(speed: Speed) -> bool:
    return speed.note.startswith("took too long")


def _untimed(comparison: Comparison, names: list[str]) -> dict[str, str]:
    """By the first of the entries that share a reason."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        why = next((why_not(speed) for speed in speeds(comparison, name) if speed.note), None)
        if why is not None:
            reasons.setdefault(why, []).append(name)
    return {who[0]: sentence(f"Speed was not measured of {labels(comparison, who)}: {why}") for why, who in reasons.items()}


def why_not(speed: Speed) -> str:
    """Why something was not measured, for a reader: what a measurement notes of its own time says nothing of the model."""
    note = one_line(speed.note, 120).rstrip(".")
    return "the time for measuring speed was used up" if _late(speed) else note


def at_length(comparison: Comparison, name: str, quantity: str, length: int) -> float | None:
    """One measured number of an entry at one length."""
    found = (measured(speed, quantity) for speed in speeds(comparison, name) if speed.length == length)
    return next((number for number in found if number is not None), None)


def _end(longest: int, following: Speed) -> str:
    note = why_not(following)
    if note.startswith("does not fit"):
        return f"trains on up to {longest:,} tokens; at {following.length:,} it {note}"
    what = f"it {note}" if note.startswith("failed") else f"not measured: {note}"
    return f"was measured on up to {longest:,} tokens; at {following.length:,} {what}"
