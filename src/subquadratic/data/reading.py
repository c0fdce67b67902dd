"""Files as streams of bytes, text and lines, in bounded memory, plain or compressed (.gz, .bz2, .xz, .lzma, .zst).

Whatever goes wrong is a `ValueError` of one line that names the file.
"""

from __future__ import annotations

import bz2
import codecs
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from .sniffing import nul_refusal

CHUNK = 1 << 17  # read at once
PIECE = 1 << 18  # of a long text, handled at once
COMPRESSED = (".gz", ".bz2", ".xz", ".lzma", ".zst")
MAGIC = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\0", ".zst": b"\x28\xb5\x2f\xfd"}  # how they begin
BOM = codecs.BOM_UTF8


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def expand_user(path: str | Path) -> Path:
    """`path` with a leading `~` replaced, or as it is where there is no such user."""
    return Path(os.path.expanduser(path))


def file_stat(path: Path) -> os.stat_result:
    """Raises ValueError where there is no file, or none that may be seen."""
    try:
        return path.stat()
    except OSError as error:
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error


def file_size(path: Path) -> int:
    """In bytes; raises as `file_stat`."""
    return file_stat(path).st_size


def read_chunks(path: Path, progress: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """The content of `path`, decompressed, a chunk at a time. `progress` hears how many bytes of the file each read took.

    Raises:
        ValueError: it cannot be read, is damaged, or ends in the middle of compressed data.
        ModuleNotFoundError: a .zst file without the package `zstandard` (extra `data`).
    """
    try:
        with path.open("rb") as file:
            yield from _expand(path, path.suffix.lower(), _raw(file, progress))
    except OSError as error:
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error


def read_stream(file: BinaryIO, path: Path, progress: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """What comes through a pipe, decompressed where its first bytes say so; otherwise as `read_chunks`."""
    try:
        chunks = _raw(file, progress)
        first = next(chunks, b"")
        suffix = next((suffix for suffix, magic in MAGIC.items() if first.startswith(magic)), "")
        yield from _expand(path, suffix, _chain(first, chunks))
    except OSError as error:
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error


def _raw(file: BinaryIO, progress: Callable[[int], None] | None) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        if progress is not None:
            progress(len(chunk))
        yield chunk


def _expand(path: Path, suffix: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """`chunks` decompressed as `suffix` says; compressed streams that follow each other are joined."""
    make = _decompressor(suffix)
    if make is None:
        yield from chunks
        return
    open_stream: _Decompressor | None = None
    empty = True
    for chunk in chunks:
        empty = False
        while chunk:
            open_stream = make() if open_stream is None else open_stream
            try:
                data = open_stream.decompress(chunk)
            except Exception as error:  # four libraries, four kinds of error
                raise ValueError(f"data: {path} is damaged, or not {suffix} at all: {error}") from error
            if data:
                yield data
            chunk = open_stream.unused_data if open_stream.eof else b""
            if open_stream.eof:
                open_stream, chunk = None, chunk.lstrip(b"\0")  # .gz and .xz files may be padded
    if open_stream is not None or empty:
        raise ValueError(f"data: {path} is cut short: its compressed data has no end")


def _decompressor(suffix: str) -> Callable[[], Any] | None:
    if suffix == ".gz":
        return lambda: zlib.decompressobj(wbits=31)
    if suffix == ".bz2":
        return bz2.BZ2Decompressor
    if suffix in (".xz", ".lzma"):
        return lzma.LZMADecompressor
    if suffix == ".zst":
        import zstandard

        return lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
    return None


def read_text(chunks: Iterable[bytes], *, name: str, utf8: bool = False, raw: bool = False) -> Iterator[bytes]:
    """A text in pieces of some hundred kilobytes, cut where words begin: LF line ends, no byte order mark.

    With `utf8`, what is not UTF-8 is refused; with `raw`, bytes come as they are, NUL bytes too.

    Raises:
        ValueError: a NUL byte, or one that is not UTF-8; the message gives its offset.
    """
    stream = iter(chunks)
    if utf8:
        stream = check_utf8(stream, name)
    if not raw:
        stream = _unix_lines(_without_mark(_check_text(stream, name)))
    held = bytearray()
    for chunk in stream:
        held += chunk
        while len(held) >= 2 * PIECE:
            cut = cut_place(held, 2 * PIECE)
            yield bytes(held[:cut])
            del held[:cut]
    yield from pieces_of(bytes(held))


def beginning(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first piece of `chunks`, and all of them again, that piece in one."""
    stream = iter(chunks)
    held = bytearray()
    for chunk in stream:
        held += chunk
        if len(held) >= PIECE:
            break
    return bytes(held), _chain(bytes(held), stream)


def pieces_of(text: bytes) -> Iterator[bytes]:
    """`text` in pieces of at most half a megabyte, cut where words begin; nothing for no text."""
    start = 0
    while len(text) - start > 2 * PIECE:
        cut = start + cut_place(text[start : start + 2 * PIECE], 2 * PIECE)
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:] if start else text


def cut_place(text: bytes | bytearray, size: int) -> int:
    """Where to cut the first `size` bytes: at the last beginning of a line, else of a word, in their second half, else
    between characters. Tokenizers that split text into words before they merge give the same tokens as for the whole."""
    for boundary in (rb"(?<=\n)[^\s\x80-\xbf]", rb"(?<=\S) (?=\S)", rb" (?=\S)"):
        for low in (size - size // 64, size // 2):  # most often near the end
            places = [found.start() for found in re.finditer(boundary, text[low:size])]
            if places:
                return low + places[-1]
    for back in (1, 2, 3):
        byte = text[size - back]
        if byte >= 0xC0:  # a character begins here; is all of it here?
            return size - back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else size
        if byte < 0x80:
            break
    return size


def whole_ends(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """`chunks`, none of them empty and none but the last ending in CR: the LF of a CRLF comes with it."""
    carried = b""
    for chunk in chunks:
        chunk = carried + chunk
        carried = b"\r" if chunk.endswith(b"\r") else b""
        if whole := chunk[: len(chunk) - len(carried)]:
            yield whole
    if carried:
        yield carried


def unix_lines(text: bytes) -> bytes:
    """`text` with LF for every CRLF and every CR alone."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


def check_utf8(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """`chunks` as they are, so long as they are UTF-8.

    Raises:
        ValueError: they are not; the message gives the offset.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    for chunk in _chain_end(chunks):
        carried = decoder.getstate()[0]
        try:
            decoder.decode(chunk or b"", final=chunk is None)
        except UnicodeDecodeError as error:
            at = offset - len(carried) + error.start
            raise ValueError(
                f"data: {name} is not UTF-8 at byte {at:,}: convert it to UTF-8, or read plain files with the tokenizer bytes"
            ) from error
        if chunk is not None:
            yield chunk
            offset += len(chunk)


def _check_text(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """`chunks` as they are, so long as no NUL byte is in them."""
    offset = 0
    for chunk in chunks:
        if b"\0" in chunk:
            raise nul_refusal(name, offset + chunk.index(b"\0"))
        yield chunk
        offset += len(chunk)


def _unix_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    return map(unix_lines, whole_ends(chunks))


def _without_mark(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """`chunks` without the byte order mark at their beginning, however it is cut."""
    held = b""
    for chunk in chunks:
        held += chunk
        if len(held) >= len(BOM):
            break
    yield held.removeprefix(BOM)
    yield from chunks


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _chain_end(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    yield from chunks
    yield None
