"""Where text comes from: files, folders, patterns, standard input, tables, the Python standard library; as a stream of documents.

| `data`                        | documents                                                                     |
|-------------------------------|-------------------------------------------------------------------------------|
| None, `"stdlib"`              | the `.py` files of Python's standard library                                  |
| a file                        | one text; of any bytes, for the byte tokenizer                                |
| a folder                      | every text file below it, without hidden and binary ones                      |
| a pattern (`notes/**/*.md`)   | the files that it matches, likewise                                           |
| `"-"`, a pipe                 | one text, read as it comes, also compressed                                   |
| `.jsonl`, `.csv`, `.tsv`, `.parquet` | a row is a document: its field `text`. In a folder, a CSV file without that column is a text |

Texts and tables may be compressed. Line ends become LF, a byte order mark is dropped, blank texts and files whose content
came before do not count (those above half a megabyte are compared with those of equal size on disk).
"""

from __future__ import annotations

import filecmp
import glob
import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from .reading import COMPRESSED, expand_user, pieces_of, read_chunks, read_stream, read_text
from .rows import as_text, has_column, read_rows, table_kind

STDLIB, STDIN = "stdlib", "-"
TEXT_FIELD = "text"

# Test suites are packaged apart by some distributions, so they would make the corpus differ between machines; `encodings`
# and `pydoc_data` are near-duplicate tables and one generated file: they would make validation look better than it is.
_STDLIB_SKIP_ANYWHERE = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib2to3"}
_STDLIB_SKIP_TOP = {"encodings", "pydoc_data"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text, or a piece of one: long texts come in several, one after the other, `last` true on the final one.

    `key` decides on which side of a split a document falls: documents of equal keys are never told apart.
    """

    name: str
    key: str
    text: bytes
    last: bool = True


@dataclass(frozen=True, kw_only=True)
class Source:
    """Documents that can be read again and again, unless they are a `stream`.

    `files` are (name, path), where a name does not depend on the machine; `several` says that they were not named one by
    one, so what is no text among them is passed over; `single` that all is one text.
    """

    name: str
    files: tuple[tuple[str, Path], ...] = ()
    text: str = TEXT_FIELD
    stream: bool = False
    several: bool = False
    stdlib: bool = False

    @property
    def single(self) -> bool:
        return self.stream or (not self.several and table_kind(self.files[0][1]) is None)

    @property
    def paths(self) -> list[Path]:
        return [path for _, path in self.files]

    @property
    def plain(self) -> bool:
        """Whether sizes on disk say how much text there is."""
        return not self.stream and not any(path.suffix.lower() in (*COMPRESSED, ".parquet") for _, path in self.files)

    def size(self) -> int | None:
        """Bytes on disk; None for a stream."""
        return None if self.stream else sum(_stat(path).st_size for _, path in self.files)

    def fingerprint(self) -> str | None:
        """A SHA-256 over names, sizes and times of the files and how they are read, not over their content: it costs one
        look at the folder. None for a stream."""
        if self.stream:
            return None
        files = [(name, str(path.resolve()), _stat(path).st_size, _stat(path).st_mtime_ns) for name, path in self.files]
        return hashlib.sha256(json.dumps([files, self.text, self.several, self.stdlib]).encode()).hexdigest()

    def documents(self, *, utf8: bool, progress: Callable[[int], None] | None = None) -> Iterator[Document]:
        """All documents, in the order of their names; `utf8` refuses text that is not. `progress` hears of bytes read on
        disk, read by read.

        Raises:
            ValueError: what cannot be read, by name.
        """
        seen = _Seen()
        for name, path in self.files:
            if not self.stream and self.is_table(path):
                for where, row in read_rows(path, {TEXT_FIELD: self.text}, progress):
                    text = as_text(row[self.text], TEXT_FIELD, self.text, where)
                    if text.strip():
                        yield from _row(f"{name}:{where.rpartition(':')[2]}", text)
                continue
            chunks = _stream_chunks(path, progress) if self.stream else read_chunks(path, progress)
            told = self.name if self.stream else str(path)
            pieces = read_text(chunks, name=told, utf8=utf8 and not self.stdlib, skip_binary=self.several)
            first, second = next(pieces, b""), next(pieces, None)
            if second is None and not first.strip():
                continue
            if self.stdlib and not _is_utf8(first):
                continue
            if seen.before(path, first if second is None else None):
                continue
            key = name.split("/")[0] if self.stdlib else name
            yield from _in_pieces(name, key, chain([first], [] if second is None else [second], pieces))

    def is_table(self, path: Path) -> bool:
        """Whether a file is read row by row."""
        kind = table_kind(path)
        optional = self.several and self.text == TEXT_FIELD and kind in ("csv", "tsv")
        return kind is not None and (not optional or has_column(path, self.text))


def find_source(data: str | Path | None = None, *, text: str = TEXT_FIELD) -> Source:
    """The source that `data` names; `text` is the field of tables that holds the text.

    Raises:
        ValueError: there is no such thing, or nothing in it.
    """
    if data is None or str(data) == STDLIB:
        return stdlib_source()
    if str(data) == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError("data: - is standard input, but nothing is piped in; as in: cat notes.txt | subq VERB --data -")
        return Source(name="standard input", files=((STDIN, Path(STDIN)),), stream=True)
    if not str(data).strip():
        raise ValueError("data: the name is empty; give a file, a folder, a pattern, - for standard input, or stdlib")
    path = expand_user(data)
    try:
        if path.is_dir():
            return _several(str(path), _walk(path), text, f"data: no text files in {path} (hidden and binary files do not count)")
        if path.is_file():
            return Source(name=str(path), files=((path.name, path),), text=text)
        if path.exists():
            return Source(name=str(path), files=((path.name, path),), stream=True)
    except OSError as error:  # a folder on the way that may not be entered, a name too long
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error
    if not glob.has_magic(str(path)):
        raise ValueError(f"data: no such file or folder: {path}")
    return _several(str(path), _matches(path), text, f"data: no file matches {path}")


def stdlib_source(root: str | Path | None = None) -> Source:
    """The `.py` files of the standard library; `root` replaces the folder that `sysconfig` gives. Modules of a package
    resemble each other, so all have the key of the top-level name.

    Raises:
        ValueError: there are none, as in a zipped or embedded Python.
    """
    folder = Path(root or sysconfig.get_paths()["stdlib"])
    found = []
    for name, path in _walk(folder) if folder.is_dir() else ():
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


def _several(name: str, files: Iterator[tuple[str, Path]], text: str, nothing: str) -> Source:
    found = tuple(sorted(files))
    if not found:
        raise ValueError(nothing)
    return Source(name=name, files=found, text=text, several=True)


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Every file below `root` that is not hidden, with its path below it."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"data: cannot read the folder {error.filename}: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for file in files:
            path = Path(folder) / file
            if not file.startswith(".") and path.is_file():
                yield path.relative_to(root).as_posix(), path


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


def _row(name: str, text: bytes) -> Iterator[Document]:
    """A row goes by its content, so that the same text never stands on both sides of a split."""
    yield from _in_pieces(name, hashlib.sha256(text).hexdigest(), pieces_of(text))


def _in_pieces(name: str, key: str, pieces: Iterator[bytes]) -> Iterator[Document]:
    held = next(pieces)
    for piece in pieces:
        yield Document(name=name, key=key, text=held, last=False)
        held = piece
    yield Document(name=name, key=key, text=held)


class _Seen:
    """Which files' contents came before: short ones by hash, long ones byte by byte, without keeping either."""

    def __init__(self) -> None:
        self.hashes: set[bytes] = set()
        self.long: dict[int, list[Path]] = {}

    def before(self, path: Path, whole: bytes | None) -> bool:
        """`whole` is the text, or None for a long one."""
        if whole is not None:
            digest = hashlib.sha256(whole).digest()
            known = digest in self.hashes
            self.hashes.add(digest)
            return known
        if not path.is_file():
            return False
        same_size = self.long.setdefault(_stat(path).st_size, [])
        known = any(filecmp.cmp(path, other, shallow=False) for other in same_size)
        same_size.append(path)
        return known


def _stream_chunks(path: Path, progress: Callable[[int], None] | None) -> Iterator[bytes]:
    """Standard input, or a pipe."""
    if str(path) == STDIN:
        yield from read_stream(sys.stdin.buffer, Path("standard input"), progress)
        return
    try:
        with path.open("rb") as file:
            yield from read_stream(file, path, progress)
    except OSError as error:
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
