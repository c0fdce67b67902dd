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

In a folder, a CSV or TSV file without the column `text` is a text where no other column is named.

Texts and tables may be compressed. Line ends become LF, a byte order mark is dropped. Passed over and counted
(`passed_over.py`) are, among several files, those that are binary or in another encoding, blank or repeated (those above
half a megabyte are compared with those of equal size on disk), and where a field is named those without it; and rows
without text.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .delimited import AUTO, QUOTES
from .documents import STDIN, TEXT_FIELD, Document, read_documents
from .passed_over import BROKEN, LINK, RUN, PassedOver
from .reading import COMPRESSED, expand_user, file_size, file_stat
from .rows import has_field, table_kind

STDLIB = "stdlib"

# Test suites are packaged apart by some distributions, so they would make the corpus differ between machines; `encodings`
# and `pydoc_data` are near-duplicate tables and one generated file: they would make validation look better than it is.
_STDLIB_SKIP_ANYWHERE = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib2to3"}
_STDLIB_SKIP_TOP = {"encodings", "pydoc_data"}

RUN_FILES = {"run.yaml", "run.json"}  # by which `subq train` writes what it did


@dataclass(frozen=True, kw_only=True)
class Source:
    """Documents that can be read again and again, unless they are a `stream`.

    `files` are (name, path), where a name does not depend on the machine; `several` says that they were not named one by
    one, so what is no text among them is passed over; `single` that all is one text. `rows`: only rows are wanted, since a
    field was named. `quotes`, `skip_bad_rows` and `binary` are those of `find_source`, `left` what it passed over: (why, name).
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
    left: tuple[tuple[str, str], ...] = ()

    @property
    def single(self) -> bool:
        return not self.several and self.kind(self.files[0][0]) is None

    @property
    def all_rows(self) -> bool:
        return self.rows or all(kind is not None for kind in self._kinds.values())

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
        return hashlib.sha256(json.dumps([files, *ways]).encode()).hexdigest()

    def kind(self, name: str) -> str | None:
        """How a file is read: as rows of a kind of table (`rows.table_kind`), or, for None, as a text."""
        return self._kinds[name]

    @cached_property
    def _kinds(self) -> dict[str, str | None]:
        return {name: self._kind(path) for name, path in self.files}

    def _kind(self, path: Path) -> str | None:
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


def find_source(
    data: str | Path | None = None,
    *,
    text: str = TEXT_FIELD,
    quotes: str = AUTO,
    skip_bad_rows: bool = False,
    binary: bool = False,
    rows: bool = False,
) -> Source:
    """The source that `data` names.

    Args:
        text: the field of tables that holds the text. One other than `text` is wanted: a file without fields is refused, or
            passed over among several.
        quotes: what a quotation mark means in CSV and TSV files: `"auto"`, `"double"` or `"none"` (`delimited.py`).
        skip_bad_rows: pass over rows that cannot be used, and count them, where they would be an error.
        binary: read every file as one text of its bytes as they are, NUL bytes and line ends too; for the tokenizer bytes.
        rows: only rows are wanted, whatever the field is called.

    Raises:
        ValueError: there is no such thing, or nothing in it; or an option that means nothing for it.
    """
    if quotes not in QUOTES:
        raise ValueError(f"quotes must be one of {', '.join(QUOTES)}, got {quotes!r}")
    ways: dict[str, Any] = dict(text=text, quotes=quotes, skip_bad_rows=skip_bad_rows, binary=binary)
    ways["rows"] = rows or text != TEXT_FIELD
    if binary and ways["rows"]:
        raise ValueError("binary reads bytes, which have no fields: leave it out, or the field's name")
    source = _find(data, ways)
    _check_ways(source)
    return source


def fitting(data: str | Path | None, *, rows: bool, **ways: Any) -> dict[str, Any]:
    """Those of the ways to read (arguments of `find_source`) that mean something for `data`: what was said of other data
    need not be of use here. `rows` says that only rows are wanted.

    Raises:
        ValueError: there is no such data.
    """
    source = _find(data, {})
    kinds = {None if source.stdlib else table_kind(path) for _, path in source.files}
    texts = kinds == {None} and not rows
    useless = {"quotes": not kinds & {"csv", "tsv"}, "skip_bad_rows": texts, "text": texts}
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
            return _several(str(path), _walk(path, left), left, ways, nothing)
        if path.is_file():
            return Source(name=str(path), files=((path.name, path),), **ways)
        if path.exists():
            return Source(name=str(path), files=((path.name, path),), stream=True, **ways)
    except OSError as error:  # a folder on the way that may not be entered, a name too long
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error
    if not glob.has_magic(str(path)):
        raise ValueError(f"data: no such file or folder: {path}")
    return _several(str(path), _matches(path), left, ways, f"data: no file matches {path}")


def _check_ways(source: Source) -> None:
    """Raises ValueError for a way to read that means nothing for these files: nothing asked for is ignored."""
    kinds = {source.kind(name) for name, _ in source.files}
    if source.rows and kinds == {None}:
        tables = ".jsonl, .json, .csv, .tsv or .parquet files"
        if source.text == TEXT_FIELD:
            raise ValueError(f"data: rows with a label or target come from {tables}, got {source.name}")
        raise ValueError(f"text: {source.name} has no field {source.text!r}: fields are those of {tables}; leave --text out")
    if source.stream and "parquet" in kinds:
        raise ValueError(f"data: parquet is not read from its beginning to its end, as a pipe is: save {source.name} as a file")
    if source.quotes != AUTO and not kinds & {"csv", "tsv"}:
        raise ValueError(f"quotes is for rows of .csv and .tsv files, and there are none in {source.name}; leave it out")
    if source.skip_bad_rows and kinds == {None}:
        raise ValueError(f"skip_bad_rows is for rows of tables, and there are none in {source.name}; leave it out")


def stdlib_source(root: str | Path | None = None) -> Source:
    """The `.py` files of the standard library; `root` replaces the folder that `sysconfig` gives. Modules of a package
    resemble each other, so all have the key of the top-level name.

    Raises:
        ValueError: there are none, as in a zipped or embedded Python.
    """
    folder = Path(root or sysconfig.get_paths()["stdlib"])
    found = []
    for name, path in _walk(folder, []) if folder.is_dir() else ():
        parts = name.split("/")
        if path.suffix == ".py" and _STDLIB_SKIP_ANYWHERE.isdisjoint(parts) and parts[0] not in _STDLIB_SKIP_TOP:
            found.append((name, path))
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


def _walk(root: Path, left: list[tuple[str, str]]) -> Iterator[tuple[str, Path]]:
    """Every file below `root` that is not hidden, with its path below it; links that lead to no file, and runs, go to `left`."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"data: cannot read the folder {error.filename}: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        below = Path(folder).relative_to(root)
        if RUN_FILES.issubset(files) and Path(folder) != root:  # a run that was trained here, whose samples and page are no text to learn
            left.append((RUN, below.as_posix()))
            folders.clear()
            continue
        left.extend((LINK, (below / name).as_posix()) for name in folders if os.path.islink(os.path.join(folder, name)))
        for file in files:
            path = Path(folder) / file
            if file.startswith("."):
                continue
            if path.is_file():
                yield (below / file).as_posix(), path
            elif path.is_symlink():
                left.append((BROKEN, (below / file).as_posix()))


def _matches(pattern: Path) -> Iterator[tuple[str, Path]]:
    """The files that a pattern matches, with their paths below the part of it that has no wildcards."""
    fixed = []
    for part in pattern.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    root = Path(*fixed)
    for match in glob.iglob(str(pattern), recursive=True):
        path = Path(match)
        if path.is_file():
            yield path.relative_to(root).as_posix(), path
