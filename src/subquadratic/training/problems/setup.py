"""From options to a backbone's configuration, and the facts that tell whether two runs may be compared."""

from __future__ import annotations

import dataclasses
import datetime
import platform
import shlex
from collections.abc import Callable
from typing import Any

import torch

from ...core.backend_info import backend_info
from ...data import Corpus, Examples, Task, load_examples, load_tokenizer, make_task
from ...data.source import TEXT_FIELD
from ...evaluation.processor import processor
from ...evaluation.versions import versions
from ..options import TrainOptions

Progress = Callable[[int, int | None], None] | None  # called with the bytes done, and the bytes there are (None: not known)


def data_facts(data: Corpus | Examples, **more: Any) -> dict[str, Any]:
    """What `run.json` says of a text, of labelled rows or of pairs."""
    return {
        "name": data.name,
        "digest": data.digest,
        "tokenizer": data.tokenizer.name,
        "tokenizer_digest": data.tokenizer.digest,
        "split": data.split,
        "passed_over": data.passed_over.to_dict(),
        **more,
    }


def examples_facts(examples: Examples) -> dict[str, Any]:
    """What it says of labelled rows or pairs."""
    return data_facts(examples, train=len(examples.train), validation=len(examples.validation))


def read_rows(options: TrainOptions) -> tuple[TrainOptions, Examples]:
    """The rows with a class or a target that resolved options name, and the options with `context` set to the longest text.

    Raises:
        ValueError: the table cannot be used.
    """
    examples = load_examples(
        options.data,
        text=options.text,
        label=options.label,
        target=options.target,
        validation=options.validation_data,
        tokenizer=load_tokenizer(options.tokenizer),
        max_length=options.context,
        quotes=options.quotes,
        skip_bad_rows=options.skip_bad_rows,
    )
    return dataclasses.replace(options, context=max(examples.longest)), examples


def task_of(options: TrainOptions) -> tuple[Task, dict[str, Any]]:
    """The synthetic task that resolved options name, and what `run.json` says of it.

    Raises:
        ValueError: an unknown task or an option it does not have.
    """
    assert options.task and options.context
    task = make_task(options.task, length=options.context, seed=options.seed, **options.task_options)
    return task, {"name": task.name, "digest": task.digest, "options": dict(options.task_options)}


def now() -> str:
    """The date and time, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def predict_command(options: TrainOptions, folder: str) -> str:
    """How a classifier or an encoder-decoder is used on new rows."""
    text = "" if options.text == TEXT_FIELD else f" --text {shlex.quote(options.text)}"
    return f"subq predict {folder} --data new_rows.csv{text}"


def describe(options: TrainOptions, parameters: int, data: dict[str, Any]) -> dict[str, Any]:
    """What `run.json` says from the start on."""
    return {
        "model": options.model,
        "parameters": parameters,
        "corpus": data,
        "versions": {
            **versions("subquadratic", "torch", "transformers", "accelerate", "numpy"),
            "python": platform.python_version(),
        },
        "machine": {
            "processor": processor(),
            "system": f"{platform.system()} {platform.machine()}",
            "cpu_threads": torch.get_num_threads(),
            "gpus": torch.cuda.device_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "computes": str(backend_info()),
        },
        "started": now(),
    }
