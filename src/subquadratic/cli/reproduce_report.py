"""One result of `subq reproduce`, on the terminal: the verdict, what was asked, what was measured, and the table, whatever the width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..reproduction.claim import Claim
from ..reproduction.progress import about
from .text_io import output_width

if TYPE_CHECKING:
    from ..reproduction.results import Result

ANSWERS = {"yes": "yes ", "no": "NO  "}


def told(claim: Claim, result: Result) -> Iterator[str]:
    """The lines of a claim that was just measured."""
    width, measurement = output_width(), result.measurement
    shared = f", {about(result.shared_seconds)} of it shared with claims before" if result.shared_seconds else ""
    yield from textwrap.wrap(f"{claim.id}: {result.verdict} ({about(result.seconds)}{shared})", width, subsequent_indent="  ")
    yield from textwrap.wrap(claim.text, width, initial_indent="  ", subsequent_indent="  ")
    for sentence in filter(None, (measurement.unavailable, measurement.diverged, measurement.finding)):
        yield from textwrap.wrap(sentence, width, initial_indent="  ", subsequent_indent="  ")
    for condition in claim.conditions if result.met else ():
        answer = condition.answer(measurement)
        said = f"{ANSWERS.get(answer, f'{answer}: ')}{condition.text}: {condition.shown(measurement)} (asked: {condition.bounds()})"
        yield from textwrap.wrap(said, width, initial_indent="  ", subsequent_indent="      ")
    if measurement.rows:
        yield from (f"  {line}" for line in fitting(measurement.columns, measurement.rows, width - 2))
    yield ""


def fitting(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A table in lines of at most `width` characters where its words allow it: as it is, else with heads of several lines, else each row as
    lines of its own."""
    from ..evaluation.report import table

    lines = table([columns, *rows])
    if max(map(len, lines)) <= width:
        return lines
    return _with_tall_heads(columns, rows, width) or list(_stacked(columns, rows, width))


def _with_tall_heads(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Nothing where even the longest words of the heads are too wide."""
    needed = [max(len(cell) for cell in (*head.split(), *cells)) for head, *cells in zip(columns, *rows, strict=True)]
    spare = width - sum(needed) - 2 * (len(needed) - 1)
    if spare < 0:
        return []
    widths = list(needed)
    while spare > 0:  # to the column whose head is tallest
        heights = [len(textwrap.wrap(head, size)) for head, size in zip(columns, widths, strict=True)]
        if max(heights) == 1:
            break
        widths[heights.index(max(heights))] += 1
        spare -= 1
    heads = [textwrap.wrap(head, size) or [""] for head, size in zip(columns, widths, strict=True)]
    tallest = max(map(len, heads))
    above = [[""] * (tallest - len(head)) + head for head in heads]
    lines = [_line(cells, widths) for cells in zip(*above, strict=True)]
    return [*lines, "-" * (sum(widths) + 2 * (len(widths) - 1)), *(_line(row, widths) for row in rows)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [cell.rjust(size) if index else cell.ljust(size) for index, (cell, size) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(aligned).rstrip()


def _stacked(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    for row in rows:
        yield from textwrap.wrap(f"{columns[0]}: {row[0]}", width, subsequent_indent="  ")
        for head, cell in zip(columns[1:], row[1:], strict=True):
            yield from textwrap.wrap(f"{head}: {cell}", width, initial_indent="  ", subsequent_indent="    ")
