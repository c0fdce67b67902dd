"""What was passed over while data were read: how much of it, why, and where it stood first. Nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .sniffing import BINARY, UTF16, UTF32

EMPTY, REPEATED, LINK, BROKEN, RUN = "empty", "repeated", "linked folder", "broken link", "run"
NO_TEXT, BAD = "row without text", "bad row"
NAN = "NaN"  # a number that is missing
NO_VALUE, NO_VALUES, NO_SEQUENCE = "row without a value", "file without values", "record without a sequence"
AS_TEXT = "without the column 'text'"  # not passed over, but not read as its name says either
AS_BYTES = "not UTF-8"
DECIMAL_COMMA = "decimal comma"  # how a file was read, too
FIRST, LAST = (BINARY, UTF16, UTF32, EMPTY, REPEATED), (LINK, BROKEN, RUN, NO_TEXT, BAD)  # in a line; other reasons between
PLURALS = {LINK: "linked folders", BROKEN: "broken links", RUN: "runs", NO_TEXT: "rows without text", BAD: "bad rows"}
PLURALS |= {NO_VALUE: "rows without a value", NO_VALUES: "files without values", NO_SEQUENCE: "records without a sequence"}
NAMED = 3  # places that a line names
KEPT = 10  # places that are remembered
SKIP_HINT = "--skip_bad_rows leaves such rows out, and counts them"

BadRow = Callable[..., None]  # hears where a row is that cannot be used, and what is wrong with it; may raise: see `PassedOver.bad_row`


class PassedOver:
    """`counts` by reason; `first` the first places of each reason.

    A row that cannot be used is counted only where `skip_bad_rows` was asked for; otherwise it is an error.
    """

    def __init__(self, *, skip_bad_rows: bool = False) -> None:
        self.skip_bad_rows = skip_bad_rows
        self.counts: dict[str, int] = {}
        self.first: dict[str, list[str]] = {}
        self.problem = ""  # of the first bad row

    def add(self, why: str, where: str, count: int = 1) -> None:
        """One more, or `count` of them, named `where`."""
        self.counts[why] = self.counts.get(why, 0) + count
        places = self.first.setdefault(why, [])
        if len(places) < KEPT:
            places.append(where)

    def bad_row(self, where: str, problem: str, *, alone: bool = True) -> None:
        """A row that cannot be used. `alone`: others can, for all that is known, so that leaving it out is a way to go on.

        Raises:
            ValueError: bad rows are not to be skipped.
        """
        if not self.skip_bad_rows:
            raise ValueError(f"{problem}; {SKIP_HINT}" if alone else problem)
        self.problem = self.problem or problem
        self.add(BAD, Path(where).name)

    def describe(self) -> str:
        """`skipped: 2 binary, 1 UTF-16, 1 empty`; nothing where nothing was. Bad rows are named."""
        between = [why for why in self.counts if why not in (*FIRST, *LAST, AS_TEXT, AS_BYTES, DECIMAL_COMMA)]
        left_out = [self._count(why) for why in (*FIRST, *between, *LAST) if why in self.counts]
        as_text = [self._count(AS_TEXT)] if AS_TEXT in self.counts else []
        as_bytes = [self._count(AS_BYTES)] if AS_BYTES in self.counts else []
        commas = [", ".join(self._places(DECIMAL_COMMA))] if DECIMAL_COMMA in self.counts else []
        said = (
            ("skipped", left_out),
            ("read as text", as_text),
            ("read as bytes", as_bytes),
            ("a comma read as the decimal mark", commas),
        )
        return "; ".join(f"{what}: {', '.join(counts)}" for what, counts in said if counts)

    def _count(self, why: str) -> str:
        count = self.counts[why]
        said = f"{count:,} {why if count == 1 else PLURALS.get(why, why)}"
        return said if why != BAD else f"{said} ({', '.join(self._places(why))})"

    def _places(self, why: str) -> list[str]:
        """The first few, and whether there are more."""
        return [*self.first[why][:NAMED], *(["..."] if self.counts[why] > NAMED else [])]

    def because(self) -> str:
        """For the end of a message that says that nothing is left: what was passed over, and what was wrong with the first bad
        row."""
        said = self.describe() + (f"; the first of these: {self.problem}" if self.problem else "")
        return f" ({said})" if said else ""

    def with_other(self, other: PassedOver) -> PassedOver:
        """What both counted."""
        both = PassedOver.from_dict(self.to_dict())
        both.skip_bad_rows, both.problem = self.skip_bad_rows, self.problem or other.problem
        for why, count in other.counts.items():
            both.counts[why] = both.counts.get(why, 0) + count
            both.first[why] = [*both.first.get(why, []), *other.first[why]][:KEPT]
        return both

    def to_dict(self) -> dict[str, Any]:
        """Counts and places by reason, as JSON holds them."""
        return {why: {"count": count, "first": self.first[why]} for why, count in self.counts.items()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> PassedOver:
        """What `to_dict` gave."""
        found = cls()
        found.counts = {why: entry["count"] for why, entry in content.items()}
        found.first = {why: list(entry["first"]) for why, entry in content.items()}
        return found
