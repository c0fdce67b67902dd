"""Synthetic tasks as batches for the loop, and how well a model does them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...data.tasks import Task
from ...evaluation.score import evaluate_items
from ...evaluation.windows import stacked
from ..claim import Setting
from .training import Batches


def batches(task: Task, size: int) -> Batches:
    """The items of a step, none twice: language models get `tokens` and `scored`, classifiers `tokens`, `labels` and `mask`."""
    items = task.train
    if task.kind == "classification":
        return lambda step: padded([items[step * size + i] for i in range(size)])
    return lambda step: stacked([items[step * size + i] for i in range(size)])  # type: ignore[misc]


def padded(items: list[Any]) -> dict[str, Tensor]:
    """Sequences of several lengths side by side."""
    rows = [item["tokens"] for item in items]
    tokens = pad_sequence(rows, batch_first=True)
    mask = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return {"tokens": tokens, "labels": torch.tensor([item["label"] for item in items]), "mask": mask}


def accuracy(model: Any, task: Task, setting: Setting, *, count: int = 512, size: int = 64) -> float:
    """Share of what can be known that a model gets right, of `count` validation items."""
    count = min(setting.scaled(count, least=8), len(task.validation))
    groups = [[task.validation[i] for i in range(first, min(first + size, count))] for first in range(0, count, size)]
    if task.kind == "classification":
        return class_accuracy(model, [padded(group) for group in groups])
    return evaluate_items(model, (stacked(group) for group in groups)).accuracy  # type: ignore[arg-type]


@torch.no_grad()
def class_accuracy(model: Any, groups: list[dict[str, Tensor]]) -> float:
    """Share of rows whose most likely class is theirs."""
    model.eval()
    right = rows = 0
    for group in groups:
        logits = model(group["tokens"], mask=group.get("mask"))
        right += int((logits.argmax(dim=-1) == group["labels"]).sum())
        rows += len(group["labels"])
    return right / rows


def solved(model: Any, task: Task, setting: Setting, *, enough: float, count: int = 128) -> Callable[[], bool]:
    """For `train`: whether the model is as good as that already."""

    def until() -> bool:
        model.eval()
        try:
            return accuracy(model, task, setting, count=count) >= enough
        finally:
            model.train()

    return until
