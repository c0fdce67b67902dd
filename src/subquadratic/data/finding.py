"""Where text comes from: files, folders, patterns, standard input, tables, the Python standard library; as a stream of documents.

| `data`                        | documents                                                                     |
|-------------------------------|-------------------------------------------------------------------------------|
| None, `"stdlib"`              | the `.py` files of Python's standard library                                  |
| a file                        | one text                                                                      |
| a folder                      | every text file below it that is not hidden                                   |
| a pattern (`notes/**/*.md`)   | the files that it matches                                                     |
| `"-"`, a pipe                 | one text, read as it comes, also compressed; where a field is named, rows of JSON |
| `.jsonl`, `.csv`, `.tsv`, `.parquet` | a row is a document: its field `text`, or the one named                |
| `.json`                       | the same where a field is named or the first row has the field `text`; else a text |
| FASTA (`.fa`, `.fasta`, `.fna`, ...) | a record is a document (`fasta.py`)                                    |
| integers and numbers, where `values` are wanted | see `value_files.py`                                        |

In a folder, a CSV or TSV file without the column `text` is a text where no other column is named.

Texts and tables may be compressed. Line ends become LF, a byte order mark is dropped. Passed over and counted
(`passed_over.py`) are, among several files, those that are binary or in another encoding, blank or repeated (those above
half a megabyte are compared with those of equal size on disk), and where a field is named those without it; and rows
without text.
"""

from __future__ import annotations

import contextlib
import glob
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .delimited import AUTO, QUOTES
from .fasta import is_fasta
from .reading import expand_user
from .rows import table_kind
from .source import STDIN, TEXT_FIELD, Source, value_kind
from .value_files import DTYPES
from .walking import matches, python_files, walk
from .ways import check_ways

STDLIB = "stdlib"


def find_source(
    data: str | Path | None = None,
    *,
    text: str = TEXT_FIELD,
    quotes: str = AUTO,
    skip_bad_rows: bool = False,
    binary: bool = False,
    rows: bool = False,
    headers: bool = True,
    values: str | None = None,
    column: str | None = None,
    dtype: str | None = None,
) -> Source:
    """The source that `data` names.

    Args:
        text: the field of tables that holds the text. One other than `text` is wanted: a file without fields is refused, or
            passed over among several.
        quotes: what a quotation mark means in CSV and TSV files: `"auto"`, `"double"` or `"none"` (`delimited.py`).
        skip_bad_rows: pass over rows that cannot be used, and count them, where they would be an error.
        binary: read every file as one text of its bytes as they are, NUL bytes and line ends too; for the tokenizer bytes.
        rows: only rows are wanted, whatever the field is called.
        headers: the header lines of FASTA files are part of the text.
        values: `"integer"` or `"number"`: these are wanted, and no text.
        column: the field of tables that holds them.
        dtype: of the values of files that hold nothing else.

    Raises:
        ValueError: there is no such thing, or nothing in it; or an option that means nothing for it.
    """
    if quotes not in QUOTES:
        raise ValueError(f"quotes must be one of {', '.join(QUOTES)}, got {quotes!r}")
    ways: dict[str, Any] = dict(text=text, quotes=quotes, skip_bad_rows=skip_bad_rows, binary=binary)
    ways |= dict(headers=headers, values=values, column=column, dtype=dtype)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    ways["rows"] = rows or text != TEXT_FIELD
    if binary and ways["rows"]:
        raise ValueError("binary reads bytes, which have no fields: leave it out, or the field's name")
    source = _find(data, ways)
    check_ways(source)
    return source


def find_sources(
    data: str | Path | None, validation: str | Path | None, *, rows: bool = False, values: str | None = None, **ways: Any
) -> tuple[Source, Source | None]:
    """What to train on and what to validate on; for None, a part of the first. Of the ways to read (the other arguments of `find_source`),
    one may mean something for either of the two alone.

    Raises:
        ValueError: as `find_source`; the message says which.
    """
    wanted: dict[str, Any] = dict(rows=rows, values=values)
    if validation is None:
        return find_source(data, **wanted, **ways), None
    with of_validation():
        fit = fitting(validation, rows=rows, **ways)
    first = {name: way for name, way in ways.items() if name not in fit} | fitting(data, rows=rows, **ways)
    train = find_source(data, **wanted, **first)
    with of_validation():
        return replace(train, whole=True), replace(find_source(validation, **wanted, **fit), whole=True)


@contextlib.contextmanager
def of_validation() -> Iterator[None]:
    """What is wrong with data in the block is said of `validation_data`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"validation_{error}" if str(error).startswith("data:") else f"validation_data: {error}") from error


def fitting(data: str | Path | None, *, rows: bool, **ways: Any) -> dict[str, Any]:
    """Those of the ways to read (arguments of `find_source`) that mean something for `data`: what was said of other data
    need not be of use here. `rows` says that only rows are wanted.

    Raises:
        ValueError: there is no such data.
    """
    source = _find(data, {})
    paths = [] if source.stdlib else [path for _, path in source.files]
    kinds = {table_kind(path) for path in paths} or {None}
    texts = kinds == {None} and not rows
    useless = {
        "quotes": not kinds & {"csv", "tsv"},
        "skip_bad_rows": texts,
        "text": texts,
        "headers": not any(map(is_fasta, paths)),
        "column": texts and not source.stream,
        "dtype": not source.stream and not any(value_kind(path, None) == "raw" for path in paths),
    }
    return {name: value for name, value in ways.items() if not useless.get(name)}


def _find(data: str | Path | None, ways: dict[str, Any]) -> Source:
    if data is None or str(data) == STDLIB:
        return replace(stdlib_source(), **ways)
    if str(data) == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError("data: - is standard input, but nothing is piped in; as in: cat notes.txt | subq VERB --data -")
        return Source(name="standard input", files=((STDIN, Path(STDIN)),), stream=True, **ways)
    if not str(data).strip():
        raise ValueError("data: the name is empty; give a file, a folder, a pattern, - for standard input, or stdlib")
    path = expand_user(data)
    left: list[tuple[str, str]] = []
    try:
        if path.is_dir():
            nothing = f"data: no text files in {path} (hidden and binary files do not count)"
            return _several(str(path), walk(path, left), left, ways, nothing)
        if path.is_file():
            return Source(name=str(path), files=((path.name, path),), **ways)
        if path.exists():
            return Source(name=str(path), files=((path.name, path),), stream=True, **ways)
    except OSError as error:  # a folder on the way that may not be entered, a name too long
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error
    if not glob.has_magic(str(path)):
        raise ValueError(f"data: no such file or folder: {path}")
    return _several(str(path), matches(path), left, ways, f"data: no file matches {path}")


def stdlib_source(root: str | Path | None = None) -> Source:
    """The `.py` files of the standard library; `root` replaces the folder that `sysconfig` gives. Modules of a package
    resemble each other, so all have the key of the top-level name.

    Raises:
        ValueError: there are none, as in a zipped or embedded Python.
    """
    folder = Path(root or sysconfig.get_paths()["stdlib"])
    found = python_files(folder)
    if not found:
        raise ValueError(
            f"data: the Python standard library at {folder} has no .py sources to train on "
            "(a zipped or embedded Python?); give a text file or a folder with --data"
        )
    version = ".".join(map(str, sys.version_info[:3]))
    return Source(name=f"standard library of Python {version}", files=tuple(found), several=True, stdlib=True)


def _several(name: str, files: Iterator[tuple[str, Path]], left: list[tuple[str, str]], ways: dict[str, Any], nothing: str) -> Source:
    found = tuple(sorted(files))
    if not found:
        raise ValueError(nothing)
    return Source(name=name, files=found, several=True, left=tuple(sorted(left)), **ways)
