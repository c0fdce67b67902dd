"""Corpora: text, integers or numbers as two sides of tokens, to train on and to validate on.

A corpus is two arrays of tokens and a digest that says which tokens they are: runs are comparable only when their digests
agree. The standard library is there wherever Python is, so it needs no download; its digest differs between versions and
distributions of Python.

Up to 64 MB of plain files, read as bytes, are held in memory. Everything else (more text, another tokenizer, compressed
files, parquet, pipes) goes through the token store (`store.py`) and is mapped from disk.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .binning import Binned, Binning
from .delimited import AUTO
from .finding import STDLIB, find_sources, of_validation
from .passed_over import PassedOver
from .reading import expand_user
from .source import TEXT_FIELD, Source
from .store import cache_folder, map_tokens, stored_tokens, tokens_in_memory
from .tokenizers.bytes import BYTES, ByteTokenizer, Tokenizer
from .tokenizers.values import IntegerTokenizer, NumberTokenizer, Unbinned, reads_values
from .tokenizing import WHOLE, Progress
from .value_files import INTEGER, NUMBER

MEMORY_BYTES = 64 << 20
MEMORY_VALUES = 8 << 20  # bytes on disk, each of which may be a number of eight

__all__ = ["STDLIB", "Corpus", "load_corpus"]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Tokens to train on and to validate on.

    `train` and `validation` are uint16 or uint32, perhaps memory maps; `train_bytes` and `validation_bytes` say how many
    bytes of text they stand for (bits per token times tokens over bytes is bits per byte; 0 where they stand for none); those of a
    series of numbers are `Binned`, found when they are read. `train_starts` and
    `validation_starts`, int64, where documents begin in them. `split` says in words how the two were told apart;
    `documents` counts those of each (a text split by position counts in both). `digest` is a SHA-256 over the split, the
    tokens and the tokenizer. `passed_over` counts what was left out, and says why; `read_as` says how files were read whose
    bytes are not their text.
    """

    name: str
    train: NDArray[Any]
    validation: NDArray[Any]
    digest: str
    split: str
    documents: tuple[int, int]
    tokenizer: Tokenizer
    train_bytes: int
    validation_bytes: int
    train_starts: NDArray[np.int64]
    validation_starts: NDArray[np.int64]
    passed_over: PassedOver = field(default_factory=PassedOver)
    read_as: str = ""

    def describe(self) -> str:
        """One line for people."""
        more = "".join(f"; {said}" for said in (self.read_as, self.passed_over.describe()) if said)
        return f"{self.name}: {self._sizes()}{self._documents()}, split {self.split}, digest {self.digest[:12]}{more}"

    def _sizes(self) -> str:
        if reads_values(self.tokenizer):
            return f"{len(self.train):,} + {len(self.validation):,} values to train + validate on, {self.tokenizer.name}"
        size, unit = next((size, unit) for size, unit in ((1e6, "MB"), (1e3, "kB"), (1, "bytes")) if self.train_bytes >= size / 10)
        digits = 2 if size > 1 else 0
        sizes = f"{self.train_bytes / size:,.{digits}f} + {self.validation_bytes / size:,.{digits}f} {unit} to train + validate on"
        tokens = "" if self.tokenizer.name == BYTES else f", {len(self.train):,} + {len(self.validation):,} tokens of {self.tokenizer.name}"
        return sizes + tokens

    def _documents(self) -> str:
        first, second = self.documents
        if self.split == WHOLE and first == second == 1:
            return ""
        whole = self.split.startswith("by position")
        return "" if whole and first == 1 else f", {first:,} documents" if whole else f", {first:,} + {second:,} documents"


def load_corpus(
    data: str | Path | None = None,
    *,
    validation: str | Path | None = None,
    tokenizer: Tokenizer | Binning | None = None,
    text: str = TEXT_FIELD,
    quotes: str = AUTO,
    skip_bad_rows: bool = False,
    binary: bool = False,
    headers: bool = True,
    column: str | None = None,
    dtype: str | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """The corpus that `data` names, as `finding.py` lists: `None` or `"stdlib"`, a file, a folder, a pattern, `"-"`.

    Args:
        validation: what to validate on, read as `data` is, of which nothing is held out then.
        tokenizer: by default the bytes themselves. An `IntegerTokenizer` reads integers, and a `NumberTokenizer` numbers
            (`value_files.py`); a `Binning` finds the bins of a `NumberTokenizer` on the training side.
        text: the field of JSON, CSV, TSV and parquet that holds the text. Where one other than `text` is named, only rows are
            read: a file without fields is refused, or passed over among several.
        quotes: what a quotation mark means in CSV and TSV files: `"auto"`, `"double"` or `"none"`, as in `delimited.py`.
        skip_bad_rows: pass over rows that cannot be used, and count them; otherwise the first is an error.
        binary: read every file as its bytes as they are, NUL bytes and line ends too; for the tokenizer bytes.
        headers: the header lines of FASTA files are part of the text.
        column: the field of JSON, CSV, TSV and parquet that holds the integers or numbers.
        dtype: the type of the values of `.bin` files and pipes that hold nothing else.
        cache: folder for the token store, in place of the usual one.
        progress: hears how many bytes were read, and of how many (None: unknown); not called where a store is there.

    Raises:
        ValueError: the path does not exist, cannot be read, holds no text, is binary or in another encoding, or is not UTF-8
            where the tokenizer needs that; a row cannot be used; an option means nothing for these data; or the cache cannot
            be written. The message names it.
        ModuleNotFoundError: a package for this kind of file is missing (`zstandard`, `pyarrow`).
    """
    ways: dict[str, Any] = dict(text=text, quotes=quotes, skip_bad_rows=skip_bad_rows, binary=binary, headers=headers)
    ways |= dict(column=column, dtype=dtype)
    source, held_out = find_sources(data, validation, values=values_of(tokenizer), **ways)
    train = corpus_of(source, tokenizer=tokenizer, cache=cache, progress=progress)
    if held_out is None:
        return train
    with of_validation():
        return _validated_on(train, corpus_of(held_out, tokenizer=train.tokenizer, cache=cache, progress=progress))


def _validated_on(train: Corpus, other: Corpus) -> Corpus:
    """One corpus of two, each of which has one side."""
    return replace(
        train,
        name=f"{train.name} (validated on {other.name})",
        validation=other.train,
        digest=hashlib.sha256(f"{WHOLE} {train.digest} {other.digest}".encode()).hexdigest(),
        documents=(train.documents[0], other.documents[0]),
        validation_bytes=other.train_bytes,
        validation_starts=other.train_starts,
        passed_over=train.passed_over.with_other(other.passed_over),
        read_as=train.read_as or other.read_as,
    )


def corpus_of(
    source: Source, *, tokenizer: Tokenizer | Binning | None = None, cache: str | Path | None = None, progress: Progress | None = None
) -> Corpus:
    """`load_corpus` of a source that is found already."""
    if isinstance(tokenizer, Binning | NumberTokenizer):
        return _series(corpus_of(source, tokenizer=Unbinned(), cache=cache, progress=progress), tokenizer)
    tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
    if source.binary and tokenizer.name != BYTES:
        raise ValueError(f"binary reads bytes as they are, and the tokenizer {tokenizer.name} reads text: leave out one of the two")
    small = MEMORY_BYTES if tokenizer.name == BYTES else MEMORY_VALUES if reads_values(tokenizer) else 0
    if source.plain and (source.size() or 0) <= small:
        tokens, layout = tokens_in_memory(source, tokenizer, progress)
        train, validation = tokens[: layout.train_tokens], tokens[layout.train_tokens :]
    else:
        folder = cache_folder() if cache is None else expand_user(cache)
        path, layout = stored_tokens(source, tokenizer, folder, progress)
        train, validation = map_tokens(path, layout)
    return Corpus(
        name=source.name,
        train=train,
        validation=validation,
        digest=layout.digest,
        split=layout.split,
        documents=layout.documents,
        tokenizer=tokenizer,
        train_bytes=layout.train_bytes,
        validation_bytes=layout.validation_bytes,
        train_starts=layout.train_starts,
        validation_starts=layout.validation_starts,
        passed_over=PassedOver.from_dict(layout.passed_over),
        read_as=_read_as(source),
    )


def values_of(tokenizer: Any) -> str | None:
    """What a tokenizer reads that is no text."""
    return INTEGER if isinstance(tokenizer, IntegerTokenizer) else NUMBER if isinstance(tokenizer, Binning | NumberTokenizer) else None


def _series(numbers: Corpus, tokenizer: NumberTokenizer | Binning) -> Corpus:
    """A corpus of numbers as they are, in the bins of `tokenizer`."""
    bins = tokenizer.fit(numbers.train) if isinstance(tokenizer, Binning) else tokenizer
    train: Any = Binned(numbers.train, bins)
    validation: Any = Binned(numbers.validation, bins)
    digest = hashlib.sha256(f"{numbers.digest} {bins.digest}".encode()).hexdigest()
    fewer = isinstance(tokenizer, Binning) and bins.size < tokenizer.bins
    said = f"fewer bins than the {tokenizer.bins:,} asked for, as the training numbers are few or often equal" if fewer else ""
    return replace(numbers, train=train, validation=validation, tokenizer=bins, digest=digest, read_as=said)


def _read_as(source: Source) -> str:
    """What becomes of FASTA files."""
    if source.values is not None or not any(source.kind(name) is None and source.fasta(path) for name, path in source.files):
        return ""
    headers = "their headers kept (--headers false leaves them out)" if source.headers else "their headers left out"
    return f"FASTA read as records, {headers}, sequences without line breaks"
