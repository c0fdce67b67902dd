"""Classification of whole sequences: labelled rows, or a synthetic task with classes."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from ...data import Examples, collate
from ...heads.sequence_classifier import SequenceClassifier
from ..configuration import backbone_config, length_limit
from ..options import TrainOptions
from ..snippets import CLASSIFIES, SORTS, of_task
from .problem import Batch, Problem, Sums
from .setup import examples_facts, predict_command, task_of


def rows_problem(options: TrainOptions, examples: Examples) -> Problem:
    """The column `label` of a table, from the column `text`.

    Raises:
        ValueError: the model cannot classify.
    """
    tokenizer = examples.tokenizer
    facts = {**examples_facts(examples), "labels": list(examples.labels)}
    problem = _problem(
        options,
        examples,
        text=examples.describe(),
        facts=facts,
        vocab_size=tokenizer.vocab_size,
        labels=examples.labels,
        pad_token=tokenizer.pad_token,
    )
    return dataclasses.replace(problem, save_extra=tokenizer.save, closing=partial(predict_command, options))


def task_problem(options: TrainOptions) -> Problem:
    """A synthetic task with classes.

    Raises:
        ValueError: an unknown task or an option it does not have.
    """
    task, facts = task_of(options)
    labels = tuple(str(number) for number in range(task.num_classes))
    return _problem(options, task, text=task.describe(), facts=facts, vocab_size=task.vocab_size, labels=labels, pad_token=0)


def _problem(
    options: TrainOptions, data: Any, *, text: str, facts: dict[str, Any], vocab_size: int, labels: tuple[str, ...], pad_token: int
) -> Problem:
    config = backbone_config(options)
    limit = length_limit(config, options.context)
    assert options.context is not None
    return Problem(
        kind="classification",
        text=text,
        facts=facts,
        train=data.train,
        validation=data.validation,
        collate=lambda items: _named(collate(items, pad_token)),
        build=lambda: SequenceClassifier(config, vocab_size=vocab_size, labels=labels, max_length=limit),
        sums=_sums,
        headline=lambda score: f"{score.accuracy:.2%} of {score.predicted:,} sequences right, loss {score.loss:.4f}",
        sample=lambda model, seed: "",
        tokens=options.context,
        size=len(data.train) * options.context,
        uniform=math.log(len(labels)),
        snippet=CLASSIFIES if options.task is None else of_task(SORTS, options),
        bits=(1 / math.log(2), "bits/sequence"),
        references=lambda: {"most_common_class_accuracy": _most_common(data.validation, len(labels))},
    )


def _named(batch: Batch) -> Batch:
    """By the names of `SequenceClassifier.loss`."""
    return {"tokens": batch["tokens"], "labels": batch["label"], "mask": batch["mask"]}


def _sums(model: Any, batch: Batch, generator: torch.Generator) -> Sums:
    logits = model(batch["tokens"], mask=batch["mask"]).float()
    labels = batch["labels"]
    nats = F.cross_entropy(logits, labels, reduction="sum")
    return Sums(float(nats), int((logits.argmax(dim=-1) == labels).sum()), len(labels))


def _most_common(items: Any, classes: int) -> float:
    counts = torch.bincount(torch.tensor([int(items[i]["label"]) for i in range(min(len(items), 2000))]), minlength=classes)
    return float(counts.max() / counts.sum())
