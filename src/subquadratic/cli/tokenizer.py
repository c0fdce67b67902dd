"""`subq tokenizer`: train a tokenizer on your own text, and look at what one does."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..core.errors import require_positive
from ..training.outputs import check_folder, check_outside
from .options import UsageError, nearest, parse
from .text_io import OutputError, fitted, help_width, notify, print_text

FILES = ("tokenizer.json", "tokenizer_config.json")
ROLES = {"tokenizer_class", "clean_up_tokenization_spaces", *(f"{role}_token" for role in ("pad", "bos", "eos", "mask"))}

USAGE = """\
usage: subq tokenizer train --out DIR [--data PATH] [--vocab_size N] [--option VALUE ...]
       subq tokenizer show DIR [--text TEXT]

  train  make a tokenizer (byte-level BPE) from text; subq train --tokenizer DIR uses it
  show   what is in a tokenizer, and how it cuts a text

examples:
  subq tokenizer train --data notes/ --vocab_size 8192 --out tokenizer
  subq tokenizer show tokenizer --text "how is this cut?"
  subq train --data notes/ --tokenizer tokenizer

subq tokenizer train --help shows the options, with more examples."""

TRAIN_EXAMPLES = """\
examples:
  subq tokenizer train --data notes/ --vocab_size 4096 --out notes-tokenizer
  subq tokenizer train --data "books/**/*.txt.gz" --out books-tokenizer
  subq tokenizer train --data articles.jsonl.zst --text body --out tokenizer
  subq train --data notes/ --tokenizer notes-tokenizer
"""

SHOW_EXAMPLES = """\
examples:
  subq tokenizer show notes-tokenizer
  subq tokenizer show notes-tokenizer --text "How is this cut?"
"""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a byte-level BPE tokenizer: frequent pieces of words become tokens, and any text can be encoded."""

    out: str
    """Folder for the tokenizer: tokenizer.json and tokenizer_config.json, which transformers reads too."""
    data: str | None = None
    """File, folder, pattern, or - for standard input: text, .jsonl, .json, .csv, .tsv or .parquet, also compressed. Default: the
    source of Python's standard library."""
    text: str = "text"
    """Field that holds the text, in JSON, CSV, TSV and parquet. If you name one other than the default, only rows are read."""
    quotes: Literal["auto", "double", "none"] = "auto"
    """Quotation marks in CSV and TSV: they enclose cells (double), or are ordinary characters (none). auto: double in CSV, and in TSV
    where the number of columns confirms it."""
    skip_bad_rows: bool = False
    """Skip and count rows that cannot be used."""
    vocab_size: int = 8192
    """Largest vocabulary size, including 256 bytes and 4 special tokens."""
    threads: int | None = None
    """Number of threads, at most 8 per core (100 if that is more). Default: one per core."""
    overwrite: bool = False
    """Write into a folder that is not empty."""


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Show what a tokenizer contains, and how it splits a text."""

    tokenizer: str
    """Folder or tokenizer.json; bytes for the byte tokenizer."""
    text: str | None = None
    """Text to split into tokens."""


def run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print_text("\n".join(part for line in USAGE.splitlines() for part in fitted(line, help_width())))
        return 0 if argv else 2
    verbs = {"train": _train, "show": _show}
    if argv[0] not in verbs:
        raise UsageError(f"unknown verb {argv[0]!r}; choose from {', '.join(verbs)}{nearest(argv[0], verbs)}")
    return verbs[argv[0]](argv[1:])


def _train(argv: Sequence[str]) -> int:
    options = parse(TrainOptions, argv, verb="tokenizer train", examples=TRAIN_EXAMPLES)
    out = Path(os.path.expanduser(options.out))
    _check_out(out, overwrite=options.overwrite)
    require_positive(threads=options.threads)
    if options.threads is not None:
        os.environ["RAYON_NUM_THREADS"] = str(options.threads)  # read by `tokenizers` when it first computes

    from ..data.finding import find_source
    from ..data.tokenizers.training import train_tokenizer

    started = time.monotonic()
    source = find_source(options.data, text=options.text, quotes=options.quotes, skip_bad_rows=options.skip_bad_rows)
    progress = _Progress()
    passed = source.passed()
    tokenizer, bytes_per_token = train_tokenizer(source, vocab_size=options.vocab_size, progress=progress, passed=passed)
    progress.clear()
    made = not out.exists()
    try:
        tokenizer.save(out)
    except OSError as error:
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()  # refuses what is not empty
        raise OutputError(f"out: cannot write {out}: {error.strerror or error}") from error
    fewer = f" (the text has no more; {options.vocab_size:,} were asked)" if tokenizer.vocab_size < options.vocab_size else ""
    print_text(f"text        {source.name}, read in {time.monotonic() - started:.1f} s")
    if passed.counts:
        print_text(passed.describe())
    print_text(f"vocabulary  {tokenizer.vocab_size:,} tokens{fewer}")
    print_text(f"measure     {bytes_per_token:.2f} bytes per token on the first megabyte")
    try:
        check_outside("out", out, options.data)
    except ValueError:
        print_text(f"note        {out} is inside {options.data}: who reads that folder next reads the files of the tokenizer as text")
    given = {"--tokenizer": str(out), "--data": options.data}
    ways = {"text": options.text, "quotes": options.quotes}
    given |= {f"--{name}": value for name, value in ways.items() if value != getattr(TrainOptions, name)}
    words = [word for flag, value in given.items() if value is not None for word in (flag, value)]
    words += ["--skip_bad_rows"] if options.skip_bad_rows else []
    print_text(f"continue    {shlex.join(['subq', 'train', *words])}")
    return 0


def _check_out(out: Path, *, overwrite: bool) -> None:
    """Raises ValueError for a folder that must not or cannot be written, before any work is done."""
    check_folder("out", out)
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"out: {out} is not empty; name another folder, or give --overwrite to write into it")
    for name in ("run.yaml", "config.json"):
        if (out / name).exists():
            raise ValueError(f"out: {out} holds a model ({name}), which would read its text with another tokenizer; name another folder")
    if any((out / name).exists() for name in FILES) and not _written_by_us(out):
        raise ValueError(f"out: the tokenizer in {out} was not made by subq tokenizer train, and would be lost; name another folder")


def _written_by_us(folder: Path) -> bool:
    """Whether what a new tokenizer would replace is one of ours."""
    try:
        tokens, roles = (json.loads((folder / name).read_text(encoding="utf-8")) for name in FILES)
        return "model" in tokens and set(roles) == ROLES and roles["tokenizer_class"] == "PreTrainedTokenizerFast"
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _show(argv: Sequence[str]) -> int:
    options = parse(ShowOptions, argv, verb="tokenizer show", examples=SHOW_EXAMPLES, positional="tokenizer")

    from ..data.tokenizers.loading import load_tokenizer

    tokenizer = load_tokenizer(options.tokenizer)
    special = {role: getattr(tokenizer, f"{role}_token") for role in ("pad", "bos", "eos", "mask")}
    print_text(f"tokenizer   {tokenizer.name}, {tokenizer.vocab_size:,} tokens, digest {tokenizer.digest[:12]}")
    print_text(f"special     {', '.join(f'{role} {token}' for role, token in special.items())}")
    if options.text is None:
        return 0
    tokens = tokenizer.encode(options.text)
    for token in tokens.tolist():
        data = tokenizer.decode_bytes([token])
        try:
            piece = repr(data.decode("utf-8"))
        except UnicodeDecodeError:  # part of a character
            piece = repr(data)
        print_text(f"{token:>10}  {piece}")
    size = len(options.text.encode("utf-8", errors="replace"))
    rate = f", {size / len(tokens):.2f} bytes per token" if len(tokens) else ""
    print_text(f"in all      {len(tokens):,} tokens for {size:,} bytes{rate}")
    return 0


class _Progress:
    """One line on a terminal, rewritten as the text is read; nothing in a pipe."""

    def __init__(self) -> None:
        self.shown = 0.0
        self.width = 0

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if not sys.stderr.isatty() or (now - self.shown < 0.2 and done != total):
            return
        of = "" if total is None else f" of {total / 1e6:,.0f}"
        line = f"read {done / 1e6:,.0f}{of} MB" + (", merging" if done == total else "")
        self.shown, self.width = now, max(self.width, len(line))
        notify(f"\r{line:<{self.width}}")

    def clear(self) -> None:
        if self.width:
            notify(f"\r{'':<{self.width}}\r")
