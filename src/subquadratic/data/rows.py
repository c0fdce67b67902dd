"""Rows of JSON lines, CSV, TSV and parquet files, read as a stream.

| suffix             | a row is                                                                    |
|--------------------|-----------------------------------------------------------------------------|
| `.jsonl`, `.ndjson` | a line that holds a JSON object; blank lines do not count                  |
| `.csv`, `.tsv`     | a record below the header, quoted as spreadsheets do, also over several lines |
| `.parquet`         | a row (needs `pyarrow`, extra `data`)                                        |

All but parquet may be compressed (`data.jsonl.gz`).
"""

from __future__ import annotations

import csv
import difflib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .reading import COMPRESSED, read_chunks, read_lines

Progress = Callable[[int], None]
Row = tuple[str, dict[str, Any]]  # where it is (`path:line`, for messages) and the fields asked for
TABLES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


def table_kind(path: Path) -> str | None:
    """`"jsonl"`, `"csv"`, `"tsv"` or `"parquet"` by the suffix of `path`; None for a text."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    kind = TABLES.get(plain.suffix.lower())
    return None if kind == "parquet" and plain != path else kind


def read_rows(path: Path, fields: dict[str, str], progress: Progress | None = None) -> Iterator[Row]:
    """Each row's `fields`, which map an argument's name (for messages) to the field that it names.

    Raises:
        ValueError: a file that is damaged or not UTF-8, or a row without one of the fields; the message names the line.
        ModuleNotFoundError: parquet without `pyarrow`.
    """
    kind = table_kind(path)
    if kind == "parquet":
        yield from _parquet_rows(path, fields, progress)
    elif kind == "jsonl":
        yield from _json_rows(path, fields, progress)
    else:
        yield from _csv_rows(path, fields, progress, delimiter="\t" if kind == "tsv" else ",")


def has_column(path: Path, name: str) -> bool:
    """Whether the header of a CSV or TSV file names the column."""
    delimiter = "\t" if table_kind(path) == "tsv" else ","
    try:
        return name in next(csv.reader(_text_lines(path, None), delimiter=delimiter), [])
    except (ValueError, csv.Error):
        return False


def _json_rows(path: Path, fields: dict[str, str], progress: Progress | None) -> Iterator[Row]:
    for number, line in enumerate(_text_lines(path, progress), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            raise ValueError(f"data: {where} is not valid JSON: {error.msg} at column {error.colno}") from error
        except RecursionError as error:
            raise ValueError(f"data: {where} is not JSON that can be read: it is nested too deeply") from error
        if not isinstance(row, dict):
            raise ValueError(f"data: {where} must hold a JSON object such as {{{json.dumps(fields['text'])}: \"...\"}}, got {line[:40]!r}")
        yield where, {name: pick(row, argument, name, where) for argument, name in fields.items()}


def _csv_rows(path: Path, fields: dict[str, str], progress: Progress | None, *, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(_text_lines(path, progress), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(reader, None)
        if header is None:
            raise ValueError(f"data: {path} is empty")
        for argument, name in fields.items():
            pick(dict.fromkeys(header, ""), argument, name, f"the header of {path}")
        line = reader.line_num + 1
        for values in reader:
            where = f"{path}:{line}"
            line = reader.line_num + 1
            if not values:
                continue
            if len(values) != len(header):
                raise ValueError(f"data: {where} has {len(values)} columns, the header {len(header)}")
            row = dict(zip(header, values, strict=True))
            yield where, {name: row[name] for name in fields.values()}
    except csv.Error as error:
        raise ValueError(f"data: {path}:{line} is not valid CSV: {error}") from error


def _parquet_rows(path: Path, fields: dict[str, str], progress: Progress | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for argument, name in fields.items():
                pick(dict.fromkeys(file.schema_arrow.names, ""), argument, name, str(path))
            share = path.stat().st_size / max(1, file.metadata.num_rows)
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=list(dict.fromkeys(fields.values()))):
                if progress is not None:
                    progress(int(share * (number + batch.num_rows)) - int(share * number))
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except pyarrow.ArrowException as error:
        raise ValueError(f"data: {path} is damaged, cut short, or not parquet: {' '.join(str(error).split())[:200]}") from error
    except OSError as error:
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error


def _text_lines(path: Path, progress: Progress | None) -> Iterator[str]:
    return read_lines(read_chunks(path, progress), name=str(path))


def pick(row: dict[str, Any], argument: str, name: str, where: str) -> Any:
    """The field `name` of `row`.

    Raises:
        ValueError: it is not there; the message names those that are.
    """
    if name in row:
        return row[name]
    known = ", ".join(map(repr, row)) or "none"
    close = difflib.get_close_matches(name, row, n=1, cutoff=0.5)
    way_out = f"did you mean --{argument} {close[0]}?" if close else f"name the one that holds the {argument} with --{argument}"
    raise ValueError(f"{argument}: {where} has no field {name!r}; its fields are {known}; {way_out}")


def as_text(value: Any, argument: str, name: str, where: str) -> bytes:
    """The value of a text field, as UTF-8 with LF line ends.

    Raises:
        ValueError: it is no text.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{argument}: the field {name!r} of {where} is not UTF-8 at byte {error.start:,}") from error
    if not isinstance(value, str):
        kind = "nothing" if value is None else f"{type(value).__name__} {value!r:.40}"
        raise ValueError(f"{argument}: the field {name!r} of {where} must be text, got {kind}")
    return value.encode("utf-8", errors="replace").replace(b"\r\n", b"\n")
