"""What is read: files, how each is read, and what was passed over before anything is.

`finding.py` finds it by name, `documents.py` and `value_files.py` read it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .delimited import AUTO
from .fasta import is_fasta
from .passed_over import PassedOver
from .reading import COMPRESSED, file_size, file_stat
from .rows import has_field, table_kind

STDIN = "-"
TEXT_FIELD = "text"


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


def value_kind(path: Path, dtype: str | None) -> str | None:
    """`"npy"`, `"raw"`, `"numerals"` or a kind of table, by the suffix of `path`; None for what holds no values."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    suffix = plain.suffix.lower()
    if suffix == ".npy":
        return "npy"
    if suffix in (".bin", ".raw"):
        return "raw"
    return "numerals" if suffix in (".txt", ".dat") else table_kind(path)
