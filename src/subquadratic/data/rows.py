"""Rows of JSON, CSV, TSV and parquet files, read as a stream.

| suffix              | a row is                                                                          |
|---------------------|-----------------------------------------------------------------------------------|
| `.jsonl`, `.ndjson` | a line that holds a JSON object; blank lines do not count (`json_rows.py`)        |
| `.json`             | the same, over any lines, or an object of an array, which may be within an object |
| `.csv`, `.tsv`      | a record below the header (`delimited.py`), whatever separates its columns        |
| `.parquet`          | a row (needs `pyarrow`, extra `data`)                                             |

A `.json` file is a table where a field is asked for or its first row has the field `text`; a single object is none. All but parquet may be
compressed (`data.jsonl.gz`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from .delimited import AUTO, DOUBLE, read_records
from .fields import Row, pick
from .json_rows import json_array, json_lines, json_objects, json_within
from .lines import Line, read_lines
from .passed_over import BadRow
from .reading import COMPRESSED, beginning, read_chunks
from .sniffing import json_table

SEPARATORS = {"csv": (",", ";", "\t", "|"), "tsv": ("\t", ",", ";", "|")}
Progress = Callable[[int], None]
TABLES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


def table_kind(path: Path) -> str | None:
    """`"jsonl"`, `"json"`, `"csv"`, `"tsv"` or `"parquet"` by the suffix of `path`; None for a text. What is `"json"` may be a
    text too."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    kind = TABLES.get(plain.suffix.lower())
    return None if kind == "parquet" and plain != path else kind


def has_field(path: Path, name: str, *, quotes: str = AUTO) -> bool:
    """Whether the header of a CSV or TSV file names the column, or the first row of a .json file has the field."""
    try:
        chunks = read_chunks(path)
        if table_kind(path) == "json":
            first, _ = beginning(chunks)
            return json_table(first, name)[1]
        lines, separator = _separated(read_lines(chunks), table_kind(path), [name])
        records = read_records(lines, **_dialect(separator, quotes))
        return any(name in _names(header.values, [name]) for header in [next(records)] if header.problem is None)
    except (ValueError, StopIteration):
        return False


def column_separator(chunks: Iterable[bytes], kind: str, fields: list[str]) -> str:
    """What separates the columns of a CSV or TSV file with these fields."""
    return _separated(read_lines(chunks), kind, fields)[1]


def read_rows(
    path: Path,
    fields: dict[str, str],
    *,
    kind: str,
    chunks: Iterable[bytes],
    quotes: str,
    bad: BadRow,
    progress: Progress | None = None,
    whole: bool = False,
) -> Iterator[Row]:
    """Each row's `fields`, which map an argument's name (for messages) to the field that it names; with `whole` all that it has.

    Args:
        kind: of `table_kind`.
        chunks: the content of the file; parquet, which is not read from its beginning to its end, does without.
        quotes: what a quotation mark means in CSV and TSV, as in `delimited.py`.
        bad: hears of rows that cannot be used.

    Raises:
        ValueError: a file that is damaged, a field that it does not have, or what `bad` raises; the message names the line.
        ModuleNotFoundError: parquet without `pyarrow`.
    """
    if kind == "parquet":
        yield from _parquet_rows(path, fields, progress, whole)
    elif kind == "jsonl":
        yield from json_lines(chunks, str(path), fields, bad, whole=whole)
    elif kind == "json":
        yield from _json_rows(chunks, str(path), fields, bad, whole)
    else:
        lines, separator = _separated(read_lines(chunks), kind, list(fields.values()))
        yield from _delimited_rows(lines, str(path), fields, bad, whole=whole, **_dialect(separator, quotes))


def _separated(lines: Iterator[Line], kind: str | None, fields: list[str]) -> tuple[Iterator[Line], str]:
    """The lines of a table, and what separates its columns: what its suffix says, or else what gives a header with all `fields`, or
    failing that, for the message, the most columns."""
    read: list[Line] = []
    for line in lines:
        read.append(line)
        if line.text.strip():
            break
    header = read[-1].text if read else ""
    columns = {separator: next(csv.reader([header], delimiter=separator), []) for separator in SEPARATORS[kind or "csv"]}
    fitting = [separator for separator, names in columns.items() if set(fields) <= set(_names(names, fields))]
    return chain(read, lines), fitting[0] if fitting else max(columns, key=lambda separator: len(columns[separator]))


def _names(header: list[str], wanted: list[str]) -> list[str]:
    """The names of columns without the spaces around them, where they stay different without, and none is `wanted` with such spaces."""
    plain = [name.strip() for name in header]
    return header if len(set(plain)) < len(plain) or any(name != name.strip() for name in wanted) else plain


def _dialect(separator: str, quotes: str) -> dict[str, str]:
    return {"delimiter": separator, "quotes": DOUBLE if quotes == AUTO and separator != "\t" else quotes}


def _json_rows(chunks: Iterable[bytes], name: str, fields: dict[str, str], bad: BadRow, whole: bool) -> Iterator[Row]:
    first, chunks = beginning(chunks)
    if not first.strip():
        raise ValueError(f"data: {name} is empty")
    shape, _ = json_table(first, fields["text"])
    if shape is None:
        what = "it holds no JSON objects, on lines, one after another or in an array"
        way_out = "; leave --text out to read a text as it stands" if len(fields) == 1 else ""
        raise ValueError(f"text: {name} has no field {fields['text']!r}: {what}{way_out}")
    readers = {"array": json_array, "lines": json_lines, "objects": json_objects, "within": json_within}
    yield from readers[shape](chunks, name, fields, bad, whole=whole)


def _delimited_rows(
    lines: Iterable[Line], name: str, fields: dict[str, str], bad: BadRow, *, whole: bool, delimiter: str, quotes: str
) -> Iterator[Row]:
    records = read_records(lines, delimiter=delimiter, quotes=quotes)
    header = next(records, None)
    if header is None:
        raise ValueError(f"data: {name} is empty")
    if header.problem is not None:
        raise ValueError(f"data: {name}{f':{header.number}' if header.at_line else ''} {header.problem}")
    names = _names(header.values, list(fields.values()))
    for argument, field in fields.items():
        pick(dict.fromkeys(names, ""), argument, field, f"the header of {name}")
        if names.count(field) > 1:
            raise ValueError(f"{argument}: the header of {name} names {names.count(field)} columns {field!r}; rename all but one")
    if whole and len(set(names)) < len(names):
        raise ValueError(f"data: the header of {name} names a column twice, so not all can be kept; rename one")
    places = {field: names.index(field) for field in (names if whole else fields.values())}
    for number, values, problem, at_line in records:
        where = f"{name}:{number}"
        if problem is not None:
            bad(where, f"data: {where if at_line else name} {problem}")
            continue
        yield where, {field: values[place] for field, place in places.items()}


def _parquet_rows(path: Path, fields: dict[str, str], progress: Progress | None, whole: bool) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for argument, name in fields.items():
                pick(dict.fromkeys(file.schema_arrow.names, ""), argument, name, str(path))
            share = path.stat().st_size / max(1, file.metadata.num_rows)
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=None if whole else list(dict.fromkeys(fields.values()))):
                if progress is not None:
                    progress(int(share * (number + batch.num_rows)) - int(share * number))
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except pyarrow.ArrowException as error:
        raise ValueError(f"data: {path} is damaged, cut short, or not parquet: {' '.join(str(error).split())[:200]}") from error
    except OSError as error:
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error
