"""Integers and numbers from files, as a stream of documents in pieces.

| file                                 | documents                                                                    |
|--------------------------------------|------------------------------------------------------------------------------|
| `.npy`                               | a 1-D array is one, each row of a 2-D array is one; mapped, not loaded        |
| `.bin`, `.raw`, a pipe, with `dtype` | one: values of that type, little-endian, nothing else                        |
| `.jsonl`, `.ndjson`, `.json`, a pipe | a list is one; objects have it in the field `column`; single values make one |
| `.csv`, `.tsv`, `.parquet`           | the column `column`, from the first row to the last; in parquet a list is one |
| `.txt`, `.dat`, a pipe               | one: numerals with white space or commas between                             |

All but `.npy` and parquet may be compressed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .documents import content_of, rows_of
from .fields import is_nothing, pick
from .json_rows import json_elements, json_values
from .numerals import decimal_comma, parse_numerals, plain_numeral, read_numerals
from .passed_over import DECIMAL_COMMA, NAN, NO_VALUE, NO_VALUES, PassedOver
from .reading import COMPRESSED, beginning, read_chunks
from .rows import column_separator
from .source import Source

PIECE = 1 << 17  # values
INTEGER, NUMBER = "integer", "number"
COLUMNS = {INTEGER: "tokens", NUMBER: "values"}  # where no column is named
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
MISSING = ("", "na", "nan", "null", "none", "-")  # cells that hold no value
Progress = Callable[[int], None] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ValuePiece:
    """Values of a document, or a piece of them that begins at position `first`, `last` true on the final one; `where` is what messages
    call it. Documents of equal keys are never on both sides of a split."""

    key: str
    values: NDArray[Any]
    where: str
    first: int = 0
    last: bool = True

    @property
    def size(self) -> int:
        return len(self.values)


def read_values(source: Source, passed: PassedOver, progress: Progress = None) -> Iterator[ValuePiece]:
    """Each document of `source`, in pieces; of numbers those that are there: NaN is passed over, as a cell without a value is.

    Raises:
        ValueError: what cannot be read, by name; a value that is none of those wanted, by its position.
        ModuleNotFoundError: a package for this kind of file is missing.
    """
    pieces = _all_values(source, passed, progress)
    yield from _without_nan(pieces, passed) if source.values == NUMBER else pieces


def _all_values(source: Source, passed: PassedOver, progress: Progress) -> Iterator[ValuePiece]:
    for name, path in source.files:
        kind, where = source.kind(name), source.told(path)
        if kind is None or (kind == "raw" and source.dtype is None):
            if not source.several:
                raise ValueError(_unreadable(where, kind))
            passed.add(NO_VALUES, name)
        elif kind == "npy":
            yield from _arrays(path, _wanted(source), progress)
        else:
            yield from _streamed(source, name, path, passed, progress)


def _without_nan(pieces: Iterator[ValuePiece], passed: PassedOver) -> Iterator[ValuePiece]:
    inside = False  # a document of which something was there
    for piece in pieces:
        missing = np.isnan(piece.values) if piece.values.dtype.kind == "f" else np.zeros(0, dtype=bool)
        if missing.any():
            passed.add(NAN, piece.where.rstrip(",").rpartition("/")[2], int(missing.sum()))
            piece = replace(piece, values=np.asarray(piece.values)[~missing])
        if len(piece.values) or (piece.last and inside):
            yield piece
            inside = not piece.last


def _unreadable(where: str, kind: str | None) -> str:
    if kind == "raw":
        return f"dtype: {where} does not say of what type its values are; give --dtype uint16, or another of {', '.join(DTYPES)}"
    kinds = ".npy, .bin (with --dtype), .jsonl, .json, .csv, .tsv, .parquet and .txt files"
    return f"data: {where} is none of the files that integers and numbers are read from: {kinds}"


def _wanted(source: Source) -> str:
    assert source.values is not None
    return source.values


def _arrays(path: Path, wanted: str, progress: Progress) -> Iterator[ValuePiece]:
    if path.suffix.lower() in COMPRESSED:
        raise ValueError(f"data: {path} is compressed, and .npy files are mapped as they are: decompress it")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"data: {path} is not an .npy file of numbers, or is damaged: {' '.join(str(error).split())[:200]}") from error
    _check_dtype(array.dtype, wanted, str(path))
    if array.ndim not in (1, 2):
        raise ValueError(f"data: {path} has the shape {array.shape}; give an array of one axis, or of two, whose rows are documents")
    for row, values in enumerate([array] if array.ndim == 1 else array):
        where = str(path) if array.ndim == 1 else f"{path}, row {row:,},"
        key = path.name if array.ndim == 1 else _key(values)
        for first in range(0, len(values), PIECE):
            piece = np.asarray(values[first : first + PIECE])
            if progress is not None:
                progress(piece.nbytes)
            yield ValuePiece(key=key, values=piece, where=where, first=first, last=first + PIECE >= len(values))


def _streamed(source: Source, name: str, path: Path, passed: PassedOver, progress: Progress) -> Iterator[ValuePiece]:
    kind, where, wanted = source.kind(name), source.told(path), _wanted(source)
    column = source.column or COLUMNS[wanted]
    if kind == "parquet" or (kind in ("csv", "tsv") and not source.stream):
        rows = ((place, row[column]) for place, row in rows_of(source, name, path, {"column": column}, passed, progress))
        comma = kind != "parquet" and wanted == NUMBER and _decimal_comma(source, name, path, column)
        if comma:
            passed.add(DECIMAL_COMMA, name)
        yield from _elements(rows, where, wanted, passed, comma=comma)
        return
    first, chunks = beginning(content_of(source, path, progress))
    shape = first.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if kind == "raw":
        yield from _pieces(_raw(chunks, np.dtype(source.dtype).newbyteorder("<"), where, wanted), where)
    elif first.startswith(b"\x93NUMPY"):
        raise ValueError(f"data: {where} is a .npy file, which is mapped and not read as it comes: save it as a file, named .npy")
    elif kind in ("jsonl", "json") or (source.stream and shape in (b"[", b"{")):
        array = kind == "json" and shape == b"["
        found = json_elements(chunks, where) if array else json_values(chunks, where, passed.bad_row)
        yield from _elements(_of_column(found, column, passed), where, wanted, passed)
    else:
        yield from _pieces(read_numerals(chunks, wanted, where=where), where)


def _decimal_comma(source: Source, name: str, path: Path, column: str) -> bool:
    """Whether the numbers of a table's column have a comma as their decimal mark, which is decided before they are read."""
    kind = source.kind(name)
    if kind is None or column_separator(read_chunks(path), kind, [column]) != ";":
        return False
    cells = rows_of(source, name, path, {"column": column}, PassedOver(skip_bad_rows=True), None)
    return decimal_comma(row[column] for _, row in cells)


def _of_column(found: Iterator[tuple[str, Any]], column: str, passed: PassedOver) -> Iterator[tuple[str, Any]]:
    seen = False
    for place, value in found:
        if not isinstance(value, dict):
            yield place, value
            continue
        try:
            picked = pick(value, "column", column, place)
        except ValueError as error:
            passed.bad_row(place, str(error), alone=seen)
            continue
        seen = True
        yield place, picked


def _elements(
    rows: Iterator[tuple[str, Any]], where: str, wanted: str, passed: PassedOver, *, comma: bool = False
) -> Iterator[ValuePiece]:
    """Lists are documents; single values one after another are one. `comma`: it is the decimal mark of numbers that are text."""
    waiting: list[Any] = []
    series: ValuePiece | None = None  # what comes before `waiting`
    count, lists = 0, False
    for place, element in rows:
        if isinstance(element, list):
            if count:
                raise ValueError(f"data: {place} holds a list, and rows before it single values; give one or the other")
            lists = True
            try:
                values = _array(element, wanted, place)
            except ValueError as error:
                passed.bad_row(place, str(error))
                continue
            if len(values):
                yield from _cut(ValuePiece(key=_key(values), values=values, where=place))
            continue
        if is_nothing(element) or (isinstance(element, str) and element.strip().lower() in MISSING):
            passed.add(NO_VALUE, place.rpartition("/")[2])
            continue
        if lists:
            raise ValueError(f"data: {place} holds a single value, and rows before it lists; give one or the other")
        try:
            waiting.append(_single(element, wanted, place, comma))
        except ValueError as error:
            passed.bad_row(place, str(error))
            continue
        count += 1
        if len(waiting) == PIECE:
            if series is not None:
                yield replace(series, last=False)
            series, waiting = ValuePiece(key=where, values=np.array(waiting), where=where, first=count - PIECE), []
    if series is not None:
        yield replace(series, last=not waiting)
    if waiting:
        yield ValuePiece(key=where, values=np.array(waiting), where=where, first=count - len(waiting))


def _array(element: list[Any], wanted: str, place: str) -> NDArray[Any]:
    if wanted == NUMBER and None in element:
        element = [np.nan if value is None else value for value in element]
    try:
        values = np.array(element) if element else np.empty(0, dtype=np.int64)
    except (ValueError, OverflowError):  # lists of several lengths in it
        values = np.array([None])
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise ValueError(f"data: {place} must hold a list of {wanted}s, got {element!s:.60}")
    _check_dtype(values.dtype, wanted, place)
    return values


def _single(element: Any, wanted: str, place: str, comma: bool) -> Any:
    if isinstance(element, bool) or not isinstance(element, str | int | float | np.integer | np.floating):
        raise ValueError(f"data: {place} must hold {'an' if wanted == INTEGER else 'a'} {wanted}, got {element!s:.60}")
    if isinstance(element, str):
        values = parse_numerals(plain_numeral(element, comma=comma, where=place) if wanted == NUMBER else element, wanted, where=place)
        if len(values) != 1:
            raise ValueError(f"data: {place} must hold one {wanted}, got {element!r:.60}")
        return values[0]
    if wanted == INTEGER and not isinstance(element, int | np.integer):
        raise ValueError(f"data: {place} holds {element}, which is not an integer; for a series of numbers use --bins instead of --tokens")
    return element


def _raw(chunks: Iterator[bytes], dtype: np.dtype[Any], where: str, wanted: str) -> Iterator[NDArray[Any]]:
    _check_dtype(dtype, wanted, where)
    held, size = b"", 0
    for chunk in chunks:
        data = held + chunk
        size += len(chunk)
        whole = len(data) - len(data) % dtype.itemsize
        held = data[whole:]
        if whole:
            yield np.frombuffer(data[:whole], dtype=dtype)
    if held:
        raise ValueError(f"dtype: {where} has {size:,} bytes, not a whole number of {dtype.name} values of {dtype.itemsize} bytes")


def _pieces(arrays: Iterator[NDArray[Any]], where: str) -> Iterator[ValuePiece]:
    """Arrays that together are one document."""
    first, held = 0, next(arrays, None)
    while held is not None:
        following = next(arrays, None)
        yield ValuePiece(key=where, values=held, where=where, first=first, last=following is None)
        first, held = first + len(held), following


def _cut(whole: ValuePiece) -> Iterator[ValuePiece]:
    for first in range(0, len(whole.values), PIECE):
        last = first + PIECE >= len(whole.values)
        yield replace(whole, values=whole.values[first : first + PIECE], first=first, last=last)


def _check_dtype(dtype: np.dtype[Any], wanted: str, where: str) -> None:
    if dtype.kind in ("iuf" if wanted == NUMBER else "iu"):
        return
    hint = "; for a series of numbers give --bins in place of --tokens" if dtype.kind == "f" else ""
    raise ValueError(f"data: {where} holds {dtype.name}, and {wanted}s are wanted{hint}")


def _key(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
