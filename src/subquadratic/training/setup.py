"""From options to a backbone's configuration, and the facts that tell whether two runs may be compared."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch

from ..data import Corpus, Examples, Task, make_task
from ..evaluation.versions import versions
from .options import TrainOptions

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


def task_of(options: TrainOptions) -> tuple[Task, dict[str, Any]]:
    """The synthetic task that resolved options name, and what `run.json` says of it.

    Raises:
        ValueError: an unknown task or an option it does not have.
    """
    assert options.task and options.context
    task = make_task(options.task, length=options.context, seed=options.seed, **options.task_options)
    return task, {"name": task.name, "digest": task.digest, "options": dict(options.task_options)}


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
        "machine": {"cpu_threads": torch.get_num_threads(), "gpus": torch.cuda.device_count()},
    }
