"""From a source to documents and rows, as a stream, with what was passed over told."""

from __future__ import annotations

import codecs
import filecmp
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from .fasta import fasta_records
from .fields import MissingField, Row, as_text, is_nothing
from .json_rows import FEW
from .passed_over import AS_BYTES, AS_TEXT, EMPTY, NO_SEQUENCE, NO_TEXT, REPEATED, PassedOver
from .reading import beginning, file_size, pieces_of, read_chunks, read_stream, read_text
from .rows import read_rows, table_kind
from .sniffing import encoding_of, json_shape, no_text, refusal
from .source import STDIN, TEXT_FIELD, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text, or a piece of one: long texts come in several, one after the other, `last` true on the final one.

    `key` decides on which side of a split a document falls: documents of equal keys are never told apart.
    """

    name: str
    key: str
    text: bytes
    last: bool = True

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.text)


def read_documents(
    source: Source, *, utf8: bool, progress: Callable[[int], None] | None = None, passed: PassedOver | None = None
) -> Iterator[Document]:
    """All documents of `source`, in the order of their names; `utf8` refuses text that is not. `progress` hears of bytes read on disk, read
    by read; `passed` of what is passed over.

    Raises:
        ValueError: what cannot be read, by name.
    """
    passed = source.passed() if passed is None else passed
    seen = _Seen()
    if source.stdlib:
        passed = PassedOver()  # the choice is ours: nothing that anybody named is left out
    for name, path in source.files:
        if source.kind(name) is not None:
            yield from _row_documents(source, name, path, passed, progress)
            continue
        if source.rows:
            passed.add(source.without_field, name)
            continue
        first, chunks = beginning(content_of(source, path, progress))
        reason = None if source.binary else no_text(first)
        if reason is not None and not source.several:
            raise refusal(first, source.told(path))
        if reason is not None:
            passed.add(reason, name)
            continue
        pieces = read_text(chunks, name=source.told(path), utf8=utf8 and not source.stdlib, raw=source.binary)
        beginning_of_it, second = next(pieces, b""), next(pieces, None)
        if second is None and not beginning_of_it.strip():
            passed.add(EMPTY, name)
        elif source.stdlib and not _is_utf8(beginning_of_it):
            passed.add("not UTF-8", name)
        elif seen.before(path, beginning_of_it if second is None else None):
            passed.add(REPEATED, name)
        else:
            if not source.binary and table_kind(path) in ("csv", "tsv"):
                passed.add(AS_TEXT, name)
            key = name.split("/")[0] if source.stdlib else name
            whole = chain([beginning_of_it], [] if second is None else [second], pieces)
            if source.fasta(path):
                yield from _records(source, name, whole, passed)
            else:
                yield from _in_pieces(name, key, whole if source.binary or source.stdlib else _encoding_noted(whole, passed, name))


def rows_of(
    source: Source,
    name: str,
    path: Path,
    fields: dict[str, str],
    passed: PassedOver,
    progress: Callable[[int], None] | None,
    *,
    whole: bool = False,
) -> Iterator[Row]:
    """The rows of one of the tables of `source`, with `whole` also the fields that `fields` do not name; nothing of one among several files
    that is in another encoding, or lacks the field that was named for the text: it is counted. What comes through a pipe is JSON, or else
    CSV, or TSV where its header has a tab.

    Raises:
        ValueError: as `read_rows`.
    """
    kind = source.kind(name)
    assert kind is not None
    chunks: Iterator[bytes] = iter(())
    if kind != "parquet":
        first, chunks = beginning(content_of(source, path, progress))
        encoding = encoding_of(first)
        if encoding is not None and not source.several:
            raise refusal(first, source.told(path), raw=False)
        if encoding is not None:
            passed.add(encoding, name)
            return
        if source.stream and kind == "json" and first.strip() and json_shape(first, whole=False)[0] is None:
            kind = "tsv" if b"\t" in first.splitlines()[0] else "csv"
    told = Path(source.told(path))
    rows = read_rows(told, fields, kind=kind, chunks=chunks, quotes=source.quotes, bad=passed.bad_row, progress=progress, whole=whole)
    if not (source.several and source.rows):
        yield from rows
        return
    held: list[Row] = []  # the first ones, as long as none has a text: there may be no such field
    try:
        for row in rows:
            held.append(row)
            if len(held) > FEW or not is_nothing(row[1][source.text]):
                break
    except MissingField as error:
        if error.argument != TEXT_FIELD:
            raise
        passed.problem = passed.problem or str(error)
        passed.add(source.without_field, name)
        return
    yield from chain(held, rows)


def _row_documents(source: Source, name: str, path: Path, passed: PassedOver, progress: Callable[[int], None] | None) -> Iterator[Document]:
    for where, row in rows_of(source, name, path, {TEXT_FIELD: source.text}, passed, progress):
        try:
            text = as_text(row[source.text], TEXT_FIELD, source.text, where)
        except ValueError as error:
            passed.bad_row(where, str(error))
            continue
        place = f"{name}:{where.rpartition(':')[2]}"
        if not text.strip():
            passed.add(NO_TEXT, place)
            continue
        # A row goes by its content, so that the same text never stands on both sides of a split.
        yield from _in_pieces(place, hashlib.sha256(text).hexdigest(), pieces_of(text))


def _records(source: Source, name: str, pieces: Iterator[bytes], passed: PassedOver) -> Iterator[Document]:
    """Those of a FASTA file, one document each."""
    for number, (title, record) in enumerate(fasta_records(pieces, headers=source.headers), start=1):
        first = next(record, None)
        if first is None:
            passed.add(NO_SEQUENCE, f"{name}:{title or number}")
        else:
            yield from _in_pieces(f"{name}:{title or number}", f"{name}:{title}:{number}", chain([first], record))


def _encoding_noted(pieces: Iterator[bytes], passed: PassedOver, name: str) -> Iterator[bytes]:
    """`pieces` as they are; what is not UTF-8 in the end is counted."""
    decoder: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
    for piece in pieces:
        try:
            if decoder is not None:
                decoder.decode(piece)
        except UnicodeDecodeError:
            passed.add(AS_BYTES, name)
            decoder = None
        yield piece
    if decoder is not None and decoder.getstate()[0]:  # cut within a character
        passed.add(AS_BYTES, name)


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
        same_size = self.long.setdefault(file_size(path), [])
        known = any(filecmp.cmp(path, other, shallow=False) for other in same_size)
        same_size.append(path)
        return known


def content_of(source: Source, path: Path, progress: Callable[[int], None] | None) -> Iterator[bytes]:
    """The bytes of a file, of standard input or of a pipe."""
    if not source.stream:
        yield from read_chunks(path, progress)
        return
    if str(path) == STDIN:
        yield from read_stream(sys.stdin.buffer, Path(source.name), progress)
        return
    try:
        with path.open("rb") as file:
            yield from read_stream(file, path, progress)
    except OSError as error:
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
