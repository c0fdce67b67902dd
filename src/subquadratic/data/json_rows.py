"""Rows of JSON: an object on each line, objects one after another, an array of objects, or such arrays within an object, each as a
stream.

A row that lacks the field of the text is one without text. Where all of the first thousand lack it, or all there are, the
field has another name, and that is an error. A row that lacks another field asked for cannot be used.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from .fields import Row, pick
from .lines import read_lines
from .passed_over import BadRow
from .reading import check_utf8

FEW = 1000  # rows after which a field that none has is no longer looked for
TEXT = "text"  # the argument whose field a row may lack


class _Chosen:
    """The fields asked for, of row after row."""

    def __init__(self, fields: dict[str, str], bad: BadRow, whole: bool) -> None:
        self.fields, self.bad, self.whole = fields, bad, whole
        self.rows, self.found = 0, False
        self.seen: set[str] = set()  # fields that a row had
        self.missing: ValueError | None = None  # what to say where no row has the text

    def take(self, row: Any, where: str) -> dict[str, Any] | None:
        """Those of `row`; None for one that cannot be used."""
        if not isinstance(row, dict):
            example = f'{{{json.dumps(self.fields[TEXT])}: "..."}}'
            self.bad(where, f"data: {where} must hold a JSON object such as {example}, got {type(row).__name__} {row!r:.40}")
            return None
        self.rows += 1
        self.found = self.found or self.fields[TEXT] in row
        values: dict[str, Any] = {}
        for argument, name in self.fields.items():
            if name in row:
                values[name] = row[name]
                self.seen.add(name)
                continue
            if argument == TEXT and (self.found or self.missing is not None):
                values[name] = None
                continue
            try:
                pick(row, argument, name, where)
            except ValueError as error:
                if argument != TEXT:
                    self.bad(where, str(error), alone=name in self.seen)
                    return None
                values[name] = None
                self.missing = error
        if self.rows == FEW:
            self.end()
        return {**row, **values} if self.whole else values

    def end(self) -> None:
        """Raises ValueError where no row had the text."""
        if self.missing is not None and not self.found:
            raise self.missing


def json_lines(chunks: Iterable[bytes], name: str, fields: dict[str, str], bad: BadRow, *, whole: bool = False) -> Iterator[Row]:
    """`fields` of the object on each line, with `whole` all it has; blank lines do not count.

    Raises:
        ValueError: what `bad` raises, or no row has the field of the text.
    """
    chosen = _Chosen(fields, bad, whole)
    for where, row in json_values(chunks, name, bad):
        values = chosen.take(row, where)
        if values is not None:
            yield where, values
    chosen.end()


def json_values(chunks: Iterable[bytes], name: str, bad: BadRow) -> Iterator[tuple[str, Any]]:
    """Where it is, and the value on each line, whatever JSON it is; blank lines do not count.

    Raises:
        ValueError: what `bad` raises.
    """
    for number, text, problem in read_lines(chunks):
        where = f"{name}:{number}"
        if problem is not None:
            bad(where, f"data: {name} {problem}")
            continue
        if not text.strip():
            continue
        try:
            value = json.loads(text.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            bad(where, f"data: {where} is not valid JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:  # a number too long to be one
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            bad(where, f"data: {where} is not JSON that can be read: {reason}")
        else:
            yield where, value


def json_array(chunks: Iterable[bytes], name: str, fields: dict[str, str], bad: BadRow, *, whole: bool = False) -> Iterator[Row]:
    """`fields` of each object in an array, with `whole` all it has. After bytes that are no JSON there is no way to go on, so these are
    not skipped.

    Raises:
        ValueError: what `bad` raises, no JSON, or no row has the field of the text.
    """
    return _chosen(_elements(_Window(chunks, name)), name, fields, bad, whole)


def json_objects(chunks: Iterable[bytes], name: str, fields: dict[str, str], bad: BadRow, *, whole: bool = False) -> Iterator[Row]:
    """`fields` of objects that follow each other, each over as many lines as it takes; the rest as `json_array`."""
    return _chosen(_following(_Window(chunks, name)), name, fields, bad, whole)


def json_within(chunks: Iterable[bytes], name: str, fields: dict[str, str], bad: BadRow, *, whole: bool = False) -> Iterator[Row]:
    """`fields` of each object in the arrays that an object holds: those whose first object has the text; the rest as `json_array`."""
    return _chosen(_tables(_Window(chunks, name), fields[TEXT]), name, fields, bad, whole)


def json_elements(chunks: Iterable[bytes], name: str) -> Iterator[tuple[str, Any]]:
    """Where it begins, and each element of an array.

    Raises:
        ValueError: no JSON.
    """
    for line, element in _elements(_Window(chunks, name)):
        yield f"{name}:{line}", element


def _chosen(elements: Iterator[tuple[int, Any]], name: str, fields: dict[str, str], bad: BadRow, whole: bool) -> Iterator[Row]:
    chosen = _Chosen(fields, bad, whole)
    for line, element in elements:
        where = f"{name}:{line}"
        values = chosen.take(element, where)
        if values is not None:
            yield where, values
    chosen.end()


class _Window:
    """What of a text is in memory, and the line on which it begins."""

    def __init__(self, chunks: Iterable[bytes], name: str) -> None:
        self.chunks, self.name = check_utf8(chunks, name), name
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.text, self.at, self.line, self.ended = "", 0, 1, False

    def more(self) -> bool:
        """Read on until there is twice as much, so that a long element is not scanned again and again; False where nothing comes."""
        self.text, self.at = self.text[self.at :], 0
        before = len(self.text)
        while len(self.text) <= 2 * before and not self.ended:
            chunk = next(self.chunks, None)
            self.ended = chunk is None
            self.text += self.decode(chunk or b"", self.ended)
        return len(self.text) > before

    def move(self, count: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def token(self) -> str:
        """The next character that is no white space; nothing at the end."""
        while True:
            found = re.compile(r"\s*").match(self.text, self.at)
            self.move(found.end() - self.at if found else 0)
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def refuse(self, reason: str) -> ValueError:
        return ValueError(f"data: {self.name}:{self.line} is not valid JSON: {reason}")


def _elements(window: _Window) -> Iterator[tuple[int, Any]]:
    """Each element of a text that is an array, with the line on which it begins."""
    if window.token() != "[":
        raise window.refuse("an array begins with [")
    yield from _array(window)
    if window.token():
        raise window.refuse("more comes after the array")


def _following(window: _Window) -> Iterator[tuple[int, Any]]:
    """Each of the values that follow each other."""
    while window.token():
        line = window.line
        yield line, _element(window)


def _tables(window: _Window, field: str) -> Iterator[tuple[int, Any]]:
    """Each element of the arrays within an object whose first element has the field."""
    for _ in _parts(window, "{", "}"):
        if not isinstance(_element(window), str) or window.token() != ":":
            raise window.refuse("Expecting a name and ':'")
        window.move(1)
        if window.token() != "[":
            _element(window)
            continue
        wanted: bool | None = None
        for line, element in _array(window):
            wanted = isinstance(element, dict) and field in element if wanted is None else wanted
            if wanted:
                yield line, element
    if window.token():
        raise window.refuse("more comes after the object")


def _array(window: _Window) -> Iterator[tuple[int, Any]]:
    for line in _parts(window, "[", "]"):
        yield line, _element(window)


def _parts(window: _Window, opening: str, closing: str) -> Iterator[int]:
    """The line of each part of what begins with `opening`; it is for the caller to read the part before he asks for the next."""
    assert window.token() == opening
    window.move(1)
    if window.token() == closing:
        window.move(1)
        return
    while True:
        window.token()
        yield window.line
        separator = window.token()
        window.move(1)
        if separator == closing:
            return
        if separator != ",":
            raise window.refuse(f"Expecting ',' delimiter, got {separator!r}" if separator else "it is cut short")


def _element(window: _Window) -> Any:
    scan = json.JSONDecoder().raw_decode
    while True:
        try:
            found, end = scan(window.text, window.at)
        except json.JSONDecodeError as error:
            # Only near the end of what was read may it be the rest that is missing, or where a string was not closed.
            cut = error.pos > len(window.text) - 16 or error.msg.startswith("Unterminated string")
            if cut and not window.ended:
                window.more()
                continue
            raise window.refuse(error.msg) from error
        except (ValueError, RecursionError) as error:
            raise window.refuse("it is nested too deeply" if isinstance(error, RecursionError) else str(error)) from error
        if end == len(window.text) and not window.ended:  # a number may go on
            window.more()
            continue
        window.move(end - window.at)
        return found
