"""Records of CSV and TSV files. Quotes are Python's csv module's; what a quotation mark means in a TSV file is decided here.

| `quotes`   | a quotation mark                                                                                        |
|------------|---------------------------------------------------------------------------------------------------------|
| `"double"` | at the beginning of a cell opens it, over separators and lines, to the next that is not doubled (RFC 4180) |
| `"none"`   | is a character as any other: a line is a record (IANA's text/tab-separated-values)                        |
| `"auto"`   | `"double"` for CSV; for TSV as follows                                                                     |

TSV files are written in both ways, and their names do not say in which. In `"auto"`, a line whose cells are quoted well is
unquoted, as spreadsheets write them; any other line with as many cells as the header is a record as it stands. Lines are
joined where quotes hold them together, the record that they make has as many cells as the header, and at most one of the
lines has by itself. So no quotation mark in a text swallows the rows that follow it.
"""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .lines import Line

AUTO, DOUBLE, NONE = "auto", "double", "none"
QUOTES = (AUTO, DOUBLE, NONE)
CELL_LIMIT = 1 << 26  # characters that a quoted cell may span


class Record(NamedTuple):
    """The cells of the record that begins on line `number`, or what is wrong with it, to follow the name of the file and,
    where `at_line`, the number of the line."""

    number: int
    values: list[str]
    problem: str | None = None
    at_line: bool = True


def read_records(lines: Iterable[Line], *, delimiter: str, quotes: str) -> Iterator[Record]:
    """The header, then the records below it. A record with a problem is one line, or where its quotes are well all of its lines;
    reading goes on after it. Blank lines do not count."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = _Reader(lines, delimiter)
    columns: int | None = None
    while (found := reader.quoted() if quotes == DOUBLE else reader.line(columns, quoted=quotes == AUTO)) is not None:
        if not found.values and found.problem is None:
            continue
        if columns is None:
            columns = len(found.values)
        elif found.problem is None and len(found.values) != columns:
            found = Record(found.number, [], f"has {len(found.values)} columns, the header {columns}")
        yield found


class _Reader:
    """Records from lines, of which some may be read ahead and put back. It is the iterator that feeds the csv module, which
    asks for as many lines as a record has; each record begins where the one before ended."""

    def __init__(self, lines: Iterable[Line], delimiter: str) -> None:
        self.lines, self.delimiter = iter(lines), delimiter
        self.back: deque[Line] = deque()
        self.taken: list[Line] = []
        self.size = 0
        self.records = csv.reader(self, delimiter=delimiter, strict=True)

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> str:
        if self.size > CELL_LIMIT:
            raise StopIteration
        line = self.back.popleft() if self.back else next(self.lines)
        self.taken.append(line)
        self.size += len(line.text)
        return line.text

    def quoted(self) -> Record | None:
        """The next record, as quotes hold it together; None at the end."""
        self.taken, self.size = [], 0
        try:
            values = next(self.records)
        except StopIteration:
            return None
        except csv.Error as error:
            first, *others = self.taken
            self.back.extendleft(reversed(others))
            return Record(first.number, [], first.problem or f"is not valid CSV: {error}", first.problem is None)
        number, _, problem = self.taken[0]
        if len(self.taken) > 1:
            number, _, problem = next((line for line in self.taken if line.problem), self.taken[0])
        return Record(number, values, problem, problem is None)

    def line(self, columns: int | None, *, quoted: bool) -> Record | None:
        """The next line as a record, or where its quotes say otherwise and the columns bear it out, what they hold together."""
        line = self.back.popleft() if self.back else next(self.lines, None)
        if line is None:
            return None
        text = line.text.rstrip("\r\n")
        plain = Record(line.number, text.split(self.delimiter) if text else [], line.problem, line.problem is None)
        if not quoted or '"' not in text:
            return plain
        self.back.appendleft(line)
        found = self.quoted()
        assert found is not None
        if found.values and (len(self.taken) == 1 or self._held_together(found, columns)):
            return found
        if found.values:
            self.back.extendleft(reversed(self.taken[1:]))
        if columns is None or len(plain.values) == columns or plain.problem is not None:
            return plain
        hint = "where quotes hold its lines together give --quotes double, where they are characters --quotes none"
        return Record(line.number, [], f"has {len(plain.values)} columns, the header {columns}: {hint}")

    def _held_together(self, found: Record, columns: int | None) -> bool:
        """Whether the lines taken are one record of a TSV file: by themselves they would be none."""
        if columns is None or len(found.values) != columns:
            return False
        return sum(line.text.count(self.delimiter) == columns - 1 for line in self.taken) <= 1
