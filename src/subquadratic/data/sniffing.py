"""What a file is by its beginning: a text, another encoding, or no text at all; and whether a `.json` file holds rows."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

BINARY, UTF16, UTF32 = "binary", "UTF-16", "UTF-32"
# The longer mark first: that of UTF-32 begins as that of UTF-16 does.
MARKS = ((codecs.BOM_UTF32_LE, UTF32), (codecs.BOM_UTF32_BE, UTF32), (codecs.BOM_UTF16_LE, UTF16), (codecs.BOM_UTF16_BE, UTF16))
NUMPY = "a NumPy array"
FORMATS = {
    b"\x93NUMPY": NUMPY,
    b"\x1f\x8b": "gzip: name it .gz",
    b"BZh91AY&SY": "bzip2: name it .bz2",
    b"\xfd7zXZ\0": "xz: name it .xz",
    b"\x28\xb5\x2f\xfd": "Zstandard: name it .zst",
    b"PAR1": "parquet: name it .parquet, and leave it uncompressed outside",
    b"PK\x03\x04": "a zip archive, or a document that is one",
    b"%PDF-": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x89HDF": "HDF5",
    b"SQLite format 3\0": "a database",
}


def encoding_of(first: bytes) -> str | None:
    """`UTF16` or `UTF32` where the bytes that begin a file say so, by their mark or, without one, by where zeros stand."""
    marked = next((name for mark, name in MARKS if first.startswith(mark)), None)
    if marked is not None:
        return marked
    even, odd = first[0::2].count(0), first[1::2].count(0)
    if (even == 0) == (odd == 0) or 4 * max(even, odd) < len(first):
        return None
    try:
        text = codecs.getincrementaldecoder("utf-16-le" if even == 0 else "utf-16-be")().decode(first)
    except UnicodeDecodeError:
        return None
    return UTF16 if text and not re.search(r"[\x00-\x08\x0e-\x1f]", text) else None


def no_text(first: bytes) -> str | None:
    """Why what begins with `first` is no text to read as it is: `UTF16`, `UTF32`, `BINARY`; None for a text."""
    found = encoding_of(first)
    if found is None and (b"\0" in first or any(map(first.startswith, FORMATS))):
        return BINARY
    return found


def refusal(first: bytes, name: str, *, raw: bool = True) -> ValueError:
    """What to say of `name`, which begins with `first` and is no text; `raw` says that its bytes could be read as they are."""
    found = encoding_of(first)
    if found is not None:
        convert = f"convert it, as with iconv -f {found} -t UTF-8 OLD > NEW"
        return ValueError(f"data: {name} is not UTF-8 at byte 0 (it looks like {found}): {convert}{_otherwise(raw)}")
    looks = next((said for magic, said in FORMATS.items() if first.startswith(magic)), None)
    like = "" if looks is None else f" (it looks like {looks})"
    way_out = "; --tokens reads integers from it, --bins numbers" if looks == NUMPY else ""
    at = first.find(b"\0")
    if at >= 0:
        return ValueError(f"{nul_refusal(f'{name}{like}', at, raw=raw)}{way_out}")
    return ValueError(f"data: {name} is no text{like}: give its text{_otherwise(raw)}{way_out}")


def nul_refusal(name: str, at: int, *, raw: bool = True) -> ValueError:
    """What to say of `name`, which has a NUL byte at byte `at`."""
    take_out = "give its text, or take such bytes out (tr -d '\\000' < OLD > NEW)"
    return ValueError(f"data: {name} is not text: it has a NUL byte at byte {at:,}; {take_out}{_otherwise(raw)}")


def _otherwise(raw: bool) -> str:
    return ", or read its bytes as they are with --binary" if raw else ""


def json_shape(first: bytes, *, whole: bool) -> tuple[str | None, dict[str, Any] | None]:
    """How the JSON that begins with `first` holds rows - `"lines"` (an object on each line), `"array"` (of objects), or None:
    it does not - and the first row, where it is in there. `whole` says that there is nothing after `first`."""
    text = first.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"["):
        inner = text[1:].lstrip()
        return ("array", _object(inner.decode("utf-8", errors="replace"))) if inner.startswith(b"{") else (None, None)
    if not text.startswith(b"{"):
        return None, None
    line, *rest = text.splitlines()
    row = _object(line.decode("utf-8", errors="replace"), alone=True)
    cut = not whole and not rest  # its end is not here
    return ("lines" if row is not None or cut else None), row


def json_table(first: bytes, field: str) -> tuple[str | None, bool]:
    """How a `.json` file that begins with `first` holds rows, and whether the first row has the field. Besides `json_shape`'s:
    `"objects"`, one after another over any lines, and `"within"`, an array of objects that have the field, within an object."""
    shape, row = json_shape(first, whole=False)
    if shape == "array" or (row is not None and field in row):
        return shape, row is not None and field in row
    text = first.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace").lstrip()
    if row is None and text.startswith("{"):
        try:
            row, end = json.JSONDecoder().raw_decode(text)
            if text[end:].lstrip().startswith("{"):
                return "objects", field in row
        except (ValueError, RecursionError):
            pass
    return ("within", True) if _holds_rows(text, field) else (shape, False)


def _holds_rows(text: str, field: str) -> bool:
    """Whether the object that `text` begins with holds an array whose first object has the field."""
    at = re.compile(r"\{\s*").match(text)
    while at:
        key = re.compile(r'"(?:[^"\\]|\\.)*"\s*:\s*').match(text, at.end())
        array = key and re.compile(r"\[\s*(?=\{)").match(text, key.end())
        if array and field in (_object(text[array.end() :]) or {}):
            return True
        try:
            _, end = json.JSONDecoder().raw_decode(text, key.end() if key else len(text))
        except (ValueError, RecursionError):
            return False
        at = re.compile(r"\s*,\s*").match(text, end)
    return False


def _object(text: str, *, alone: bool = False) -> dict[str, Any] | None:
    """The JSON object at the beginning of `text`, after which nothing may come where it is `alone`."""
    try:
        found, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and not (alone and text[end:].strip()) else None
