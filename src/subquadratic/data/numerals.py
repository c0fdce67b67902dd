"""Integers and numbers that are written as text, with white space or commas between."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPED = re.compile(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?([eE][+-]?\d+)?\s*")  # thousands, as in 1,001.55
SWAPPED = str.maketrans(",.", ".,")
THE_TEXT = "the text"
SEPARATORS = re.compile(rb"[\s,;]+")
KINDS: dict[str, tuple[Any, Any]] = {"integer": (int, np.int64), "number": (float, np.float64)}


def parse_numerals(text: str | bytes, kind: str, *, where: str = THE_TEXT, first: int = 0) -> NDArray[Any]:
    """int64 where `kind` is "integer", float64 where it is "number".

    Args:
        where: what messages call the text; one that is in no file is `THE_TEXT`, and whoever gave it says in which option.
        first: how many values came before it, for messages.

    Raises:
        ValueError: something in it is none; the message names it and its position.
    """
    data = text.encode("utf-8", errors="replace") if isinstance(text, str) else text
    words = [word for word in SEPARATORS.split(data) if word]
    read, dtype = KINDS[kind]
    try:
        if b"_" in data:  # which Python takes in a number
            raise ValueError
        return np.array(list(map(read, words)), dtype=dtype)
    except (ValueError, OverflowError):
        place, word = next((place, word) for place, word in enumerate(words) if not _fits(word, read, dtype))
        spelled = word[:40].decode("utf-8", errors="backslashreplace")
        an = "an" if kind == "integer" else "a"
        what = f"{where} holds {spelled!r} at position {first + place:,}, which is not {an} {kind}"
        raise ValueError(what if where == THE_TEXT else f"data: {what}") from None


def decimal_comma(cells: Iterable[Any]) -> bool:
    """Whether a comma is the decimal mark of a column whose neighbours are not separated by commas: the first cell tells that can be meant
    in one way only. `1.001` alone does not, `50,02`, `1.001,55` and `0.994` do."""
    for cell in cells:
        if not isinstance(cell, str):
            continue
        if "," in cell:
            return cell.count(",") == 1 and cell.rfind(".") < cell.find(",")
        grouped = bool(GROUPED.fullmatch(cell.translate(SWAPPED)))
        if cell.count(".") > 1 or ("." in cell and not grouped):
            return grouped
    return False


def plain_numeral(cell: str, *, comma: bool, where: str) -> str:
    """A cell's number without its thousands separators and with a decimal point; `comma`: with a comma as the decimal mark.

    Raises:
        ValueError: it could be taken for another number.
    """
    english = cell.translate(SWAPPED) if comma else cell
    if "," not in english:
        return english
    if GROUPED.fullmatch(english):
        return english.replace(",", "")
    if comma:
        raise ValueError(f"data: {where} holds {cell!r:.60}, in a column whose decimal mark is a comma")
    way_out = "if it is the decimal mark, separate the columns by ; or write a point"
    raise ValueError(f"data: {where} holds {cell!r:.60}, whose comma does not separate thousands: {way_out}")


def read_numerals(chunks: Iterable[bytes], kind: str, *, where: str) -> Iterator[NDArray[Any]]:
    """The values of a stream of text, piece by piece; a numeral that a chunk cuts is put together.

    Raises:
        ValueError: as `parse_numerals`.
    """
    held, count = b"", 0
    for chunk in chunks:
        text = held + chunk
        last = max((text.rfind(mark) for mark in b" \n\t\r,;"), default=-1) + 1
        held = text[last:]
        if len(held) > 1000:
            raise ValueError(f"data: {where} holds {held[:20]!r}... at position {count:,}, which is not a {kind}: is it a text of numbers?")
        values = parse_numerals(text[:last], kind, where=where, first=count)
        count += len(values)
        if len(values):
            yield values
    values = parse_numerals(held, kind, where=where, first=count)
    if len(values):
        yield values


def _fits(word: bytes, read: Any, dtype: Any) -> bool:
    try:
        np.array(read(word), dtype=dtype)
    except (ValueError, OverflowError):
        return False
    return b"_" not in word
