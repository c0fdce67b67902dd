"""The options that say what is learned from; every verb that trains has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Text, integers, a series of numbers, labelled rows, pairs or a synthetic task. `data_options.py` checks them."""

    data: str | None = None
    """File, folder, glob pattern, or - for standard input; .gz .xz .zst .jsonl .json .csv .tsv .parquet .fasta are understood, and with
    --tokens or --bins .npy and .bin. Default: the source of Python's own standard library."""
    validation_data: str | None = None
    """Data to validate on, read as --data is; all of --data is then used for training. Default: a tenth of --data."""
    text: str = "text"
    """Column or field that holds the text, if the data has columns. If you name one other than the default, only rows are read: a
    file without columns is refused, or skipped in a folder."""
    label: str | None = None
    """Column with the class of each row: trains a classifier."""
    target: str | None = None
    """Column with the target text of each row: trains an encoder-decoder."""
    quotes: Literal["auto", "double", "none"] = "auto"
    """Quotation marks in CSV and TSV: they enclose cells (double), or are ordinary characters (none). auto: double in CSV, and in TSV
    where the number of columns confirms it."""
    skip_bad_rows: bool = False
    """Skip and count rows that cannot be used. Otherwise the first one ends the run."""
    binary: bool = False
    """Read every file as raw bytes, NUL bytes included; for the byte tokenizer."""
    headers: bool = True
    """Keep the header lines of FASTA files in the text. Each record is a document, its sequence joined into one line."""
    tokens: int | None = None
    """Read the data as integer tokens instead of text, from 0 to this number minus 1."""
    bins: int | None = None
    """Read the data as a series of numbers, and predict which of this many bins the next one falls into. The bins are fitted to the
    training data."""
    binning: Literal["quantile", "mu_law"] = "quantile"
    """Bins with equally many numbers each (quantile), or narrower around zero, as waveforms need (mu_law)."""
    difference: bool = False
    """Bin the change from one number to the next: for a series whose level drifts, such as a price."""
    column: str | None = None
    """Column or field that holds the tokens or numbers, if the data has columns. Default: tokens, or values."""
    dtype: str | None = None
    """Data type of .bin files and pipes, which are raw little-endian values: uint8, int16, float32, ..."""
    task: str | None = None
    """Synthetic task to train on instead of data: copy, mirror, recall, listops, variables or dyck."""
    task_options: dict[str, Any] = field(default_factory=dict)
    """Options of the task, as --task_options.NAME VALUE."""
    tokenizer: str | None = None
    """A tokenizer.json, or a folder that has one (see subq tokenizer train). Default: bytes."""

    @property
    def kind(self) -> str:
        """What is learned: language, classification or sequence_to_sequence."""
        if self.task is not None:
            from ..data.task_names import TASK_KINDS

            return TASK_KINDS.get(self.task, "language")
        return "classification" if self.label is not None else "sequence_to_sequence" if self.target is not None else "language"
