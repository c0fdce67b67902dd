"""Integers and numbers that are written as text, with white space or commas between."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEPARATORS = re.compile(rb"[\s,;]+")
KINDS: dict[str, tuple[Any, Any]] = {"integer": (int, np.int64), "number": (float, np.float64)}


def parse_numerals(text: str | bytes, kind: str, *, where: str = "the text", first: int = 0) -> NDArray[Any]:
    """int64 where `kind` is "integer", float64 where it is "number".

    Args:
        where: what messages call the text.
        first: how many values came before it, for messages.

    Raises:
        ValueError: something in it is none; the message names it and its position.
    """
    data = text.encode("utf-8", errors="replace") if isinstance(text, str) else text
    words = [word for word in SEPARATORS.split(data) if word]
    read, dtype = KINDS[kind]
    try:
        return np.array(list(map(read, words)), dtype=dtype)
    except (ValueError, OverflowError):
        place, word = next((place, word) for place, word in enumerate(words) if not _fits(word, read, dtype))
        spelled = word[:40].decode("utf-8", errors="backslashreplace")
        an = "an" if kind == "integer" else "a"
        raise ValueError(f"data: {where} holds {spelled!r} at position {first + place:,}, which is not {an} {kind}") from None


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
    return True
