"""Ways to read data: what they are where nothing else is said, and whether they mean anything for a source."""

from __future__ import annotations

from .delimited import AUTO
from .fasta import SUFFIXES as FASTA
from .source import TEXT_FIELD, Source

# How data are read, unless something else is said.
WAYS = {"text": TEXT_FIELD, "quotes": AUTO, "skip_bad_rows": False, "binary": False, "headers": True, "column": None, "dtype": None}
ROW_WAYS = ("text", "quotes", "skip_bad_rows")


def check_ways(source: Source) -> None:
    """Raises ValueError for a way to read that means nothing for these files: nothing asked for is ignored."""
    kinds = {source.kind(name) for name, _ in source.files}
    if source.rows and kinds == {None}:
        tables = ".jsonl, .json, .csv, .tsv or .parquet files"
        if source.text == TEXT_FIELD:
            raise ValueError(f"data: rows come from {tables}, got {source.name}")
        raise ValueError(f"text: {source.name} has no field {source.text!r}: fields are those of {tables}; leave --text out")
    if source.stream and "parquet" in kinds:
        raise ValueError(f"data: parquet is not read from its beginning to its end, as a pipe is: save {source.name} as a file")
    if source.quotes != AUTO and not (kinds & {"csv", "tsv"} or (source.stream and source.rows)):
        raise ValueError(f"quotes is for rows of .csv and .tsv files, and there are none in {source.name}; leave it out")
    of_rows = kinds & {"jsonl", "json", "csv", "tsv", "parquet"}
    if source.skip_bad_rows and not of_rows and not (source.stream and source.values):
        raise ValueError(f"skip_bad_rows is for rows of tables, and there are none in {source.name}; leave it out")
    if not source.headers and not any(source.fasta(path) for _, path in source.files):
        raise ValueError(f"headers is for FASTA files ({', '.join(FASTA)}), and there are none in {source.name}; leave it out")
    if source.column is not None and not of_rows and not source.stream:
        raise ValueError(f"column is for rows of tables, and there are none in {source.name}; leave it out")
    if source.dtype is not None and "raw" not in kinds:
        raise ValueError(f"dtype is for .bin files and pipes, and there are none in {source.name}; leave it out")
