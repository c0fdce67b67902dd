"""Which options say what is learned from, and which of them exclude each other."""

from __future__ import annotations

import difflib
from pathlib import Path

from .numbers import require_value
from .options import TrainOptions

READING = ("data", "validation_data", "text", "label", "target", "quotes", "skip_bad_rows", "binary", "headers", "tokenizer")
VALUES = ("tokens", "bins", "binning", "difference", "column", "dtype")  # of data that is no text


def check_data_options(options: TrainOptions) -> None:
    """Raises ValueError for a task that is not known, and for options that mean nothing beside each other."""
    if options.task is not None:
        from ..data.task_names import TASKS

        close = difflib.get_close_matches(options.task, TASKS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        require_value(options.task in TASKS, "task", f"one of {', '.join(TASKS)}{hint}", options.task)
        for name in (*READING, *VALUES):
            if getattr(options, name) != getattr(type(options), name):
                raise ValueError(f"{name} is not for --task, which makes its own tokens: leave out one of the two")
    elif options.task_options:
        raise ValueError("task_options is for --task: name one")
    if options.label is not None and options.target is not None:
        raise ValueError("label trains a classifier and target an encoder-decoder: leave out one of the two")
    if options.validation_data is not None and absolute_name(options.validation_data) == absolute_name(options.data or "stdlib"):
        raise ValueError(
            f"validation_data: {options.validation_data} is what is trained on; name other data, or leave it out to hold a tenth back"
        )
    for name in ("label", "target"):
        if getattr(options, name) is not None and options.data is None:
            raise ValueError(f"{name} names a column of the data: give a .csv, .tsv, .jsonl or .parquet with --data")
        if getattr(options, name) is not None and options.binary:
            raise ValueError(f"binary reads bytes, and {name} names a column: leave out one of the two")
    _check_values(options)


def _check_values(options: TrainOptions) -> None:
    if options.tokens is None and options.bins is None:
        for name in VALUES:
            if getattr(options, name) != getattr(type(options), name):
                needed = "--tokens or --bins" if name in ("column", "dtype") else "--bins"
                raise ValueError(f"{name} is for data of {'integers or ' if 'tokens' in needed else ''}numbers: give {needed} with it")
        return
    chosen = "bins" if options.tokens is None else "tokens"
    require_value(options.tokens is None or options.tokens >= 1, "tokens", "at least 1", options.tokens)
    require_value(options.bins is None or options.bins >= 2, "bins", "at least 2", options.bins)
    if options.data in (None, "stdlib"):
        raise ValueError(f"{chosen} says what the data holds: name a file or folder of such data with --data")
    if options.validation_data == "stdlib":
        raise ValueError(f"validation_data: {chosen} says what the data holds, and the standard library is text: name a file or folder")
    beside = ("bins", "text", "label", "target", "binary", "tokenizer", "headers")
    for name in beside if chosen == "tokens" else (*beside[1:],):
        if getattr(options, name) != getattr(type(options), name):
            hint = "; the column is named by --column" if name == "text" else ""
            what = "integers" if chosen == "tokens" else "numbers"
            raise ValueError(f"{chosen} reads {what}, and {name} is for other data{hint}: leave out one of the two")
    for name in ("binning", "difference") if chosen == "tokens" else ():
        if getattr(options, name) != getattr(type(options), name):
            raise ValueError(f"{name} is for --bins, and tokens are read as they are: leave it out")


def absolute_name(path: str | None) -> str | None:
    """So that a run can be resumed from another folder; names that are no paths stay as they are."""
    if path is None or path in ("", "-", "stdlib", "bytes"):
        return path
    return str(Path(path).expanduser().absolute())
