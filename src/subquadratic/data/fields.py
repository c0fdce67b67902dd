"""The fields of a row: the one that an argument names, and its value as text. What is nothing in one format is in every one."""

from __future__ import annotations

import difflib
import math
from typing import Any

from .reading import unix_lines

Row = tuple[str, dict[str, Any]]  # where it is (`path:line`, for messages) and the fields asked for


class MissingField(ValueError):
    """Rows that lack the field of an `argument`."""

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(message)
        self.argument = argument


def pick(row: dict[str, Any], argument: str, name: str, where: str) -> Any:
    """The field `name` of `row`.

    Raises:
        MissingField: it is not there; the message names those that are.
    """
    if name in row:
        return row[name]
    known = ", ".join(map(repr, row)) or "none"
    close = difflib.get_close_matches(name, row, n=1, cutoff=0.5)
    way_out = f"did you mean --{argument} {close[0]}?" if close else f"name the one that holds the {argument} with --{argument}"
    raise MissingField(argument, f"{argument}: {where} has no field {name!r}; its fields are {known}; {way_out}")


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty: null, NaN (which tables in Python write for null), or white space only."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str | bytes) and not value.strip())


def as_text(value: Any, argument: str, name: str, where: str) -> bytes:
    """The value of a text field, as UTF-8 with LF line ends; nothing for null and NaN.

    Raises:
        ValueError: it is no text.
    """
    if isinstance(value, str):  # nearly always: white space is left for the caller to look at
        return unix_lines(value.encode("utf-8", errors="replace"))
    if is_nothing(value):
        return b""
    if isinstance(value, bytes):
        try:
            return unix_lines(value.decode("utf-8").encode())
        except UnicodeDecodeError as error:
            raise ValueError(f"{argument}: the field {name!r} of {where} is not UTF-8 at byte {error.start:,}") from error
    raise ValueError(f"{argument}: the field {name!r} of {where} must be text, got {type(value).__name__} {value!r:.40}")
