"""The lines of a table, one by one in bounded memory; what is wrong with a line is told with it, so that it can be skipped.

A line ends in LF, CRLF or CR alone (old Macs, instruments), as in Python's text files; nothing else ends one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .reading import BOM, whole_ends


class Line(NamedTuple):
    """`text` with its end; `number` counts from 1; `problem` says why it is no text, to follow the name of the file."""

    number: int
    text: str
    problem: str | None


def read_lines(chunks: Iterable[bytes]) -> Iterator[Line]:
    """The lines of a UTF-8 text, without a byte order mark. Bytes that are not UTF-8, and NUL bytes, are a line's `problem`."""
    offset = 0
    for number, line in enumerate(_byte_lines(chunks), start=1):
        start = offset
        offset += len(line)
        if number == 1 and line.startswith(BOM):
            start, line = len(BOM), line[len(BOM) :]
        if b"\0" in line:
            at = start + line.index(b"\0")
            yield Line(number, line.decode("utf-8", errors="replace"), f"has a NUL byte at byte {at:,} (line {number:,})")
            continue
        try:
            yield Line(number, line.decode("utf-8"), None)
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8 at byte {start + error.start:,} (line {number:,}): convert it to UTF-8"
            yield Line(number, line.decode("utf-8", errors="replace"), problem)


def _byte_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []  # of a line whose end has not come
    for chunk in whole_ends(chunks):
        first, *others = chunk.splitlines(keepends=True)
        held.append(first)
        if not first.endswith((b"\n", b"\r")):
            continue
        yield b"".join(held)
        held = []
        if others and not others[-1].endswith((b"\n", b"\r")):
            held.append(others.pop())
        yield from others
    if held:
        yield b"".join(held)
