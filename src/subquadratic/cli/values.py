"""What no option takes, whatever it means: numbers beyond 64 bits, NaN and infinity, and names of files that are none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..core.threads import check_threads
from ..training.numbers import check_numbers
from ..training.outputs import named

# Fields of the verbs' options that name files or folders.
PLACES = {
    "run": "the folder of a run",
    "out": "where to write",
    "data": "a file, a folder, a pattern, - for standard input, or stdlib",
    "validation_data": "a file, a folder, a pattern, or - for standard input",
    "tokenizer": "a tokenizer.json, or a folder that has one",
    "weights": "the folder of a saved model",
    "resume": "the folder of a run",
    "file": "a checkpoint",
    "checkpoint": "the folder of a model of transformers",
    "prompt_file": "a file",
    "by_position": "an SVG file",
    "plot": "results.json files",
    "folder": "the folder of a comparison",
}


def check_values(options: Any, flags: Mapping[str, str]) -> None:
    """Every value of a dataclass of options; `flags` are the names of its fields on the command line.

    Raises:
        ValueError: one that cannot be meant.
    """
    for field in dataclasses.fields(options):
        value, flag = getattr(options, field.name), flags[field.name]
        if field.name in PLACES and isinstance(value, str):
            for part in value.split(",") if field.name == "plot" else [value]:
                named(flag, part, PLACES[field.name])
        check_numbers(flag, value)
        if field.name == "threads":
            check_threads(value)
