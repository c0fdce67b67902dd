"""A comparison on a terminal: the verdict, one table, and which to take; the page has the rest."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator

from ..evaluation.report import amount, shortened, size, table
from .against import Against
from .findings.quality import verdict as side_of
from .observed import averages, compared, exact, of_trials, ranked, scores
from .results import Comparison
from .statistics import between
from .verdict import Verdict, judge
from .wording import label, signed, value

NAMES = 24, 18, 12  # letters of a name, the most that fit


def lines(comparison: Comparison, *, width: int = 100, against: Against | None = None) -> list[str]:
    """Lines of at most `width` columns (40 or more)."""
    found = judge(comparison)
    out = [line for text in (*found.unfinished, *found.warnings) for line in textwrap.wrap(text, width)]
    out += ([""] if out else []) + textwrap.wrap(" ".join([found.headline, *found.more]), width)
    if table_ := _table(comparison, width):
        out += ["", *table_, ""]
    for choice in found.choices:
        out += _entry(f"for {choice.purpose}", choice.line, width)
    for text in _untimed(found):
        out += _item(text, width)
    for text in found.failed:
        out += _item(text, width)
    for name, reason in found.not_tried:
        out += _item(f"Not tried: {name} ({reason}).", width)
    for text in found.caveats:
        out += _item(text, width)
    return out if against is None else [*out, "", *_beside(against, width)]


def _untimed(found: Verdict) -> list[str]:
    """That the speed of some was not measured; what of the others is on the page."""
    return [text for text in found.lengths if text.startswith("Speed was not measured")]


def _table(comparison: Comparison, width: int) -> list[str]:
    """As much of it as the width holds: all columns, those that decide, the differences alone without their intervals."""
    found = scores(comparison)
    if not found:
        return []
    order = ranked(comparison, found)
    base = exact(comparison) if exact(comparison) in found else order[0]
    assert base is not None
    against = label(comparison, base)
    cells = {name: _cells(comparison, name, base) for name in order}
    unit = comparison.unit
    variants = [
        ({"value": unit, "difference": f"minus {shortened(against, 18)}", "verdict": "verdict", "rate": "tokens/s", "peak": "memory"}, ""),
        ({"value": unit, "difference": f"minus {shortened(against, 16)}", "verdict": "verdict"}, ""),
        ({"value": unit, "difference": "difference", "verdict": "verdict"}, f"Differences: minus {against}."),
        ({"value": unit, "mean": "difference", "verdict": "verdict"}, f"Differences: minus {against}; their intervals are on the page."),
        ({"value": unit, "mean": "difference"}, f"Differences: minus {against}."),
    ]
    for variant, letters in itertools.product(variants, NAMES):
        head, note = variant
        rows = [["model", *head.values()]]
        rows += [[shortened(label(comparison, name), letters), *(cells[name][key] for key in head)] for name in order]
        made = table(rows)
        if max(map(len, made)) <= width and (letters == NAMES[-1] or not _too_short(comparison, order, letters)):
            break
    return [*(shortened(line, width) for line in made), *(textwrap.wrap(note, width) if note and len(order) > 1 else [])]


def _too_short(comparison: Comparison, order: list[str], letters: int) -> bool:
    """Whether two names look alike when they are cut."""
    cut = [shortened(label(comparison, name), letters) for name in order]
    return len(set(cut)) < len(cut)


def _cells(comparison: Comparison, name: str, base: str) -> dict[str, str]:
    whole, pair = averages(comparison)[name], None if name == base else between(compared(comparison), name, base)
    rate = of_trials(comparison, name, lambda trial: trial.tokens / trial.seconds if trial.seconds > 0 else None)
    peak = of_trials(comparison, name, lambda trial: trial.peak_bytes)
    return {
        "value": value(whole.mean, comparison.unit, with_unit=False),
        "difference": "-" if pair is None else signed(pair, comparison.unit),
        "mean": "-" if pair is None else signed(pair, comparison.unit).partition(" ")[0],
        "verdict": "" if name == base else "no verdict" if pair is None or not pair.counts else side_of(comparison, pair),
        "rate": "-" if rate is None else amount(rate.mean),
        "peak": "-" if peak is None else size(peak.mean),
    }


def _beside(found: Against, width: int) -> Iterator[str]:
    """Two comparisons: what differs, and the scores."""
    yield "beside the other comparison:"
    for name, here, there in found.conditions:
        yield from _item(f"{name}: {here}; there {there}", width)
    unit, rows = found.here.unit, []
    for side in found.sides:
        parts = ["-" if part is None else value(part.mean, unit, with_unit=False) for part in (side.here, side.there)]
        change = "-" if side.difference is None else signed(side.difference, unit)
        name = label(found.here if any(entry.name == side.name for entry in found.here.entries) else found.there, side.name)
        rows.append([name, *parts, change])
    for head, whole in (("this minus the other", True), ("this minus other", False)):
        letters = NAMES[1] if whole else NAMES[-1]
        cut = [[shortened(row[0], letters), *row[1:3], row[3] if whole else row[3].partition(" ")[0]] for row in rows]
        made = table([["model", "this", "the other", head], *cut])
        if max(map(len, made)) <= width:
            break
    yield ""
    yield from (shortened(line, width) for line in made)
    for note in found.notes:
        yield from textwrap.wrap(note, width)


def _entry(name: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(f"{name}: {text}", width, subsequent_indent="    ")


def _item(text: str, width: int) -> list[str]:
    return textwrap.wrap(f"- {text}", width, subsequent_indent="  ")
