"""FASTA: records of a header line, which begins with `>`, and a sequence over several lines.

A record is a document: its header line where headers are wanted, then its sequence without line breaks and white space, in the
letters that the file has (lower case, which marks repeats, stays).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from .reading import COMPRESSED

SUFFIXES = (".fa", ".fasta", ".fna", ".ffn", ".faa", ".frn")
BLANK = b" \t\n"


def is_fasta(path: Path) -> bool:
    """By its suffix, of which one for compression is taken off."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return plain.suffix.lower() in SUFFIXES


def fasta_records(pieces: Iterable[bytes], *, headers: bool) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The first word of each header and the pieces of its record, which are to be read before the next record is; the pieces of a record
    without a sequence are none where headers are not wanted."""
    events = _events(pieces)
    event = next(events, None)
    while event is not None:
        found, first = event
        event = None

        def record(found: bytes | None = found, first: bytes = first) -> Iterator[bytes]:
            nonlocal event
            if found is not None and headers:
                yield b">" + found + b"\n"
            if first:
                yield first
            for header, text in events:
                if header is not None:
                    event = (header, text)
                    return
                if text:
                    yield text

        words = (found or b"").split(maxsplit=1)
        yield (words[0].decode("utf-8", errors="replace") if words else ""), record()


def _events(pieces: Iterable[bytes]) -> Iterator[tuple[bytes | None, bytes]]:
    """A header, whole, with no text; or no header, with some of a sequence."""
    header: bytes | None = None  # the beginning of one that is not all here
    line_begins = True
    for piece in pieces:
        while piece:
            if header is not None:
                start, end, piece = piece.partition(b"\n")
                header += start
                if end:
                    yield header, b""
                    header, line_begins = None, True
            elif line_begins and piece.startswith(b">"):
                header, piece = b"", piece[1:]
            else:
                at = piece.find(b"\n>")
                sequence, piece = (piece, b"") if at < 0 else (piece[: at + 1], piece[at + 1 :])
                line_begins = sequence.endswith(b"\n")
                if text := sequence.translate(None, BLANK):
                    yield None, text
    if header is not None:
        yield header, b""
