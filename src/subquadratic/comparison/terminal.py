"""A comparison on a terminal: the verdict, one table, and which to take; the page has the rest."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from ..evaluation.report import amount, shortened, size, table
from .against import Against
from .findings.quality import verdict as side_of
from .observed import exact, of_trials, ranked, scores
from .results import Comparison
from .statistics import between, differences, estimate
from .verdict import judge
from .wording import label, signed, value

NARROW = 76  # columns below which only the columns that decide are shown
NAME = 24


def lines(comparison: Comparison, *, width: int = 100, against: Against | None = None) -> list[str]:
    """Lines of at most `width` columns (40 or more)."""
    found = judge(comparison)
    out = [line for text in found.unfinished for line in textwrap.wrap(text, width)]
    out += ([""] if out else []) + textwrap.wrap(" ".join([found.headline, *found.more]), width)
    if table_ := _table(comparison, width):
        out += ["", *table_, ""]
    for choice in found.choices:
        out += _entry(f"for {choice.purpose}", choice.line, width)
    for text in found.failed:
        out += _item(text, width)
    for name, reason in found.not_tried:
        out += _item(f"Not tried: {name} ({reason}).", width)
    for text in found.caveats:
        out += _item(text, width)
    return out if against is None else [*out, "", *_beside(against, width)]


def _table(comparison: Comparison, width: int) -> list[str]:
    found = scores(comparison)
    if not found:
        return []
    pairs, order, unit = differences(found), ranked(comparison, found), comparison.unit
    base = exact(comparison) if exact(comparison) in found else order[0]
    wide = width >= NARROW
    head = ["model", unit, f"minus {shortened(label(comparison, base or ''), 18)}" if wide else "difference", "verdict"]
    rows = [head + (["tokens/s", "memory"] if wide else [])]
    for name in order:
        whole, pair = estimate(found[name].values()), between(pairs, name, base or "")
        assert whole is not None
        rate = of_trials(comparison, name, lambda trial: trial.tokens / trial.seconds if trial.seconds > 0 else None)
        peak = of_trials(comparison, name, lambda trial: trial.peak_bytes)
        word = "" if name == base else "no verdict" if pair is None or not pair.counts else side_of(comparison, pair)
        row = [
            shortened(label(comparison, name), NAME if wide else NAME - 6),
            value(whole.mean, unit, with_unit=False),
            "-" if pair is None or name == base else signed(pair, unit) if wide else signed(pair, unit).partition(" ")[0],
            word,
        ]
        rows.append(row + (["-" if rate is None else amount(rate.mean), "-" if peak is None else size(peak.mean)] if wide else []))
    return [shortened(line, width) for line in table(rows)]


def _beside(found: Against, width: int) -> Iterator[str]:
    """Two comparisons: what differs, and the scores."""
    yield "beside the other comparison:"
    for name, here, there in found.conditions:
        yield from _item(f"{name}: {here}; there {there}", width)
    rows = [["model", "this", "the other", "difference"]]
    for side in found.sides:
        parts = ["-" if part is None else value(part.mean, found.here.unit, with_unit=False) for part in (side.here, side.there)]
        change = "-" if side.difference is None else signed(side.difference, found.here.unit)
        name = label(found.here if any(entry.name == side.name for entry in found.here.entries) else found.there, side.name)
        rows.append([shortened(name, NAME - 6), *parts, change if width >= NARROW else change.partition(" ")[0]])
    yield ""
    yield from (shortened(line, width) for line in table(rows))


def _entry(name: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(f"{name}: {text}", width, subsequent_indent="    ")


def _item(text: str, width: int) -> list[str]:
    return textwrap.wrap(f"- {text}", width, subsequent_indent="  ")
