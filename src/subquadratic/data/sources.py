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
import hashlib
import json
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .delimited import AUTO, QUOTES
from .documents import STDIN, TEXT_FIELD, Document, read_documents
from .fasta import is_fasta
from .passed_over import PassedOver
from .reading import COMPRESSED, expand_user, file_size, file_stat
from .rows import has_field, table_kind
from .value_files import DTYPES, ValuePiece, read_values, value_kind
from .walking import matches, python_files, walk
from .ways import check_ways

STDLIB = "stdlib"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Documents that can be read again and again, unless they are a `stream`.

    `files` are (name, path), where a name does not depend on the machine; `several` says that they were not named one by
    one, so what is no text among them is passed over; `single` that all is one text. `rows`: only rows are wanted, since a
    field was named. `left` is what was passed over: (why, name); `quotes` and what follows it are those of `find_source`. `whole`:
    nothing is held out to validate on.
    """

    name: str
    files: tuple[tuple[str, Path], ...] = ()
    text: str = TEXT_FIELD
    stream: bool = False
    several: bool = False
    stdlib: bool = False
    rows: bool = False
    quotes: str = AUTO
    skip_bad_rows: bool = False
    binary: bool = False
    headers: bool = True
    values: str | None = None
    column: str | None = None
    dtype: str | None = None
    left: tuple[tuple[str, str], ...] = ()
    whole: bool = False

    @property
    def single(self) -> bool:
        name, path = self.files[0]
        return not self.several and self.values is None and self.kind(name) is None and not self.fasta(path)

    @property
    def all_rows(self) -> bool:
        return self.values is None and (self.rows or all(kind is not None for kind in self._kinds.values()))

    @property
    def plain(self) -> bool:
        """Whether sizes on disk say how much text there is."""
        return not self.stream and not any(path.suffix.lower() in (*COMPRESSED, ".parquet") for _, path in self.files)

    @property
    def without_field(self) -> str:
        """Why a file is passed over where rows are wanted."""
        return f"without the field {self.text!r}"

    def told(self, path: Path) -> str:
        """What messages call a file."""
        return self.name if self.stream else str(path)

    def size(self) -> int | None:
        """Bytes on disk; None for a stream."""
        return None if self.stream else sum(file_size(path) for _, path in self.files)

    def fingerprint(self) -> str | None:
        """A SHA-256 over names, sizes and times of the files and how they are read, not over their content: it costs one
        look at the folder. None for a stream."""
        if self.stream:
            return None
        stats = [(name, path, file_stat(path)) for name, path in self.files]
        files = [(name, str(path.resolve()), stat.st_size, stat.st_mtime_ns) for name, path, stat in stats]
        ways = [self.text, self.several, self.stdlib, self.rows, self.quotes, self.skip_bad_rows, self.binary, self.left]
        ways += [self.headers, self.values, self.column, self.dtype, *(["whole"] if self.whole else [])]
        return hashlib.sha256(json.dumps([files, *ways]).encode()).hexdigest()

    def kind(self, name: str) -> str | None:
        """How a file is read: as rows of a kind of table (`rows.table_kind`), or, for None, as a text. Where values are wanted, the kinds
        are those of `value_kind`."""
        return self._kinds[name]

    def fasta(self, path: Path) -> bool:
        """Whether a text is read as the records of a FASTA file."""
        return not (self.binary or self.stdlib) and is_fasta(path)

    @cached_property
    def _kinds(self) -> dict[str, str | None]:
        return {name: self._kind(path) for name, path in self.files}

    def _kind(self, path: Path) -> str | None:
        if self.values is not None:
            kind = value_kind(path, self.dtype)
            return ("numerals" if self.dtype is None else "raw") if kind is None and self.stream else kind
        kind = None if self.binary or self.stdlib else table_kind(path)
        if self.stream:
            return kind if kind not in (None, "json") else "json" if self.rows else None
        # Where nobody named a column, a CSV file of a folder may be a text; a .json file is one wherever it holds no such rows.
        unnamed = self.text == TEXT_FIELD
        unsure = (kind in ("csv", "tsv") and self.several and unnamed) or (kind == "json" and (self.several or not self.rows))
        return None if unsure and not has_field(path, self.text, quotes=self.quotes) else kind

    def passed(self) -> PassedOver:
        """What is passed over before anything is read, for `documents` to add to."""
        passed = PassedOver(skip_bad_rows=self.skip_bad_rows)
        for why, name in self.left:
            passed.add(why, name)
        return passed

    def documents(
        self, *, utf8: bool, progress: Callable[[int], None] | None = None, passed: PassedOver | None = None
    ) -> Iterator[Document]:
        """All documents, in the order of their names; `utf8` refuses text that is not. `progress` hears of bytes read on
        disk, read by read; `passed` of what is passed over.

        Raises:
            ValueError: what cannot be read, by name.
        """
        return read_documents(self, self.passed() if passed is None else passed, utf8=utf8, progress=progress)

    def pieces(self, passed: PassedOver, progress: Callable[[int], None] | None = None) -> Iterator[ValuePiece]:
        """The same where values are wanted.

        Raises:
            ValueError: what cannot be read, by name.
        """
        return read_values(self, passed, progress)


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
