"""The options of `subq evaluate`, and whether its files can be written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..training.outputs import check_file, check_outside

OTHERS = (".csv", ".tsv", ".parquet", ".npy", ".svg", ".png")  # names of files that a score is not
MARK = "subq evaluate"  # in a drawing, by which it is known


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Evaluate a trained model: bits per byte, perplexity, accuracy, and how the loss depends on the number of preceding tokens."""

    run: str
    """Run folder, or any folder that save_pretrained or subq convert wrote."""
    data: str | None = None
    """File, folder, glob pattern, or - for standard input, evaluated as a whole. Default: the validation side of what the
    model was trained on."""
    text: str | None = None
    """Column or field that holds the text, where the data has columns. Default: as in training."""
    label: str | None = None
    """Column with the class of each row, for classifiers. Default: as in training."""
    target: str | None = None
    """Column with the target text, for encoder-decoders. Default: as in training."""
    quotes: Literal["auto", "double", "none"] | None = None
    """Quotation marks in CSV and TSV: they enclose cells (double), or are ordinary characters (none). Default: as in training."""
    skip_bad_rows: bool | None = None
    """Skip and count rows that cannot be used. Default: as in training."""
    binary: bool | None = None
    """Read every file as raw bytes, NUL bytes included. Default: as in training."""
    headers: bool | None = None
    """Keep the header lines of FASTA files in the text. Default: as in training."""
    tokens: int | None = None
    """Number of different integers that a saved model reads, if the model does not record it."""
    column: str | None = None
    """Column or field that holds integers or numbers. Default: as in training."""
    dtype: str | None = None
    """Data type of .bin files and pipes. Default: as in training."""
    tokenizer: str | None = None
    """A tokenizer.json or a folder that has one. Default: the model's own."""
    reset: Literal["auto", "documents", "never", "windows"] = "auto"
    """When to reset the state: at each document, never, or at each window. auto: documents for models with a state of constant
    size, windows for the others."""
    context: int | None = None
    """Tokens in a window; sets reset to windows. Default for windows: as in training."""
    batch_size: int = 8
    """Windows, rows or short documents in a batch."""
    max_tokens: int | None = None
    """Stop after this many tokens."""
    quantize: Literal["int8"] | None = None
    """int8: hold the model's weights in 8 bits, in a quarter of the memory. Default: as they were saved."""
    threads: int | None = None
    """Number of threads. Default: one per core (PyTorch's own choice); under torchrun, a share of the cores. At most 8 per core
    (100 if that is more)."""
    seed: int = 0
    """For masked models: seed of which positions are masked together."""
    format: Literal["text", "json"] = "text"
    """What to print."""
    json: bool = False
    """Print the JSON on one line."""
    quiet: bool = False
    """Print nothing but errors; for use with --out and --by_position."""
    out: str | None = None
    """Also write the JSON to this file."""
    by_position: str | None = None
    """Also plot the loss against the number of preceding tokens, to this SVG file."""

    def check(self) -> None:
        """Raises ValueError for a value out of range, or a file that cannot be written."""
        for name, value, least in (
            ("context", self.context, 2),
            ("batch_size", self.batch_size, 1),
            ("threads", self.threads, 1),
            ("max_tokens", self.max_tokens, 2),
            ("seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.seed >= 2**63:
            raise ValueError(f"seed must be at most 2**63 - 1, got {self.seed}")
        if self.context is not None and self.reset not in ("auto", "windows"):
            raise ValueError(f"context is for --reset windows, got --reset {self.reset}")
        if self.quiet and (self.json or self.format == "json"):
            raise ValueError("quiet prints nothing, and json the score: leave out one of the two")
        if self.quiet and self.out is None and self.by_position is None:
            raise ValueError("quiet prints nothing: name a file for the score with --out, or for its plot with --by_position")
        for name, path in (("out", self.out), ("by_position", self.by_position)):
            if path is not None:
                _check_file(name, path)
                check_outside(name, Path(path), self.data)
        if self.out is not None and self.by_position is not None and Path(self.out).absolute() == Path(self.by_position).absolute():
            raise ValueError(f"out and by_position are both {self.out}; name two files")


def _check_file(name: str, path: str) -> None:
    """Raises ValueError for a file that cannot be written, or would be lost though it is not of `subq evaluate`."""
    place = Path(path).expanduser()
    check_file(name, place)
    if name == "by_position" and place.suffix != ".svg":
        raise ValueError(f"{name} must name an .svg file, got {path!r}")
    if name == "out" and place.suffix.lower() in OTHERS:
        raise ValueError(f"out must name a .json file, got {path!r}")
    if not place.is_file() or place.stat().st_size == 0:
        return
    content = place.read_bytes()
    ours = MARK.encode() in content[:4000] if name == "by_position" else _is_score(content)
    if not ours:
        kind = "drawing" if name == "by_position" else "score"
        raise ValueError(f"{name}: {place} is no {kind} that subq evaluate wrote, and would be lost; name another file, or move it")


def _is_score(content: bytes) -> bool:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"run", "model", "data", "score"} <= set(found)
