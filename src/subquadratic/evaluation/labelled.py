"""Scores of classifiers and of encoder-decoders on labelled rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..layers.modes import evaluating

Batch = dict[str, Tensor]
Progress = Callable[[int], None]  # rows done


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """`loss` in nats per row; `confusion[i][j]` counts rows of class i that were taken for class j."""

    rows: int
    loss: float
    accuracy: float
    labels: list[str]
    confusion: list[list[int]]
    seconds: float

    def of_class(self, index: int) -> tuple[float | None, float | None]:
        """Precision and recall of a class; None where nothing was taken for it, or nothing belongs to it."""
        right, taken, there = self.confusion[index][index], sum(row[index] for row in self.confusion), sum(self.confusion[index])
        return right / taken if taken else None, right / there if there else None


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """`loss` in nats per target token; `exact` is the share of rows of which every token was predicted right."""

    rows: int
    predicted: int
    loss: float
    accuracy: float
    exact: float
    seconds: float


@torch.no_grad()
def evaluate_classes(model: Any, batches: Iterable[Batch], *, labels: list[str], progress: Progress | None = None) -> ClassScore:
    """The score of a SequenceClassifier.

    Args:
        model: in eval mode while this lasts.
        batches: of `tokens` (B, N), `mask` (B, N) bool and `labels` (B,) int64.
        labels: names of the classes.

    Raises:
        ValueError: no rows, or a loss that is NaN.
    """
    started, device = time.monotonic(), next(model.parameters()).device
    confusion = torch.zeros(len(labels), len(labels), dtype=torch.int64)
    nats = 0.0
    with evaluating(model):
        for batch in batches:
            logits = model(batch["tokens"].to(device), mask=batch["mask"].to(device)).float().cpu()
            nats += float(F.cross_entropy(logits, batch["labels"], reduction="sum"))
            confusion.index_put_((batch["labels"], logits.argmax(dim=-1)), torch.ones((), dtype=torch.int64), accumulate=True)
            if progress is not None:
                progress(int(confusion.sum()))
    rows = int(confusion.sum())
    loss = _mean(nats, rows)
    accuracy = int(confusion.diagonal().sum()) / rows
    seconds = time.monotonic() - started
    return ClassScore(rows=rows, loss=loss, accuracy=accuracy, labels=labels, confusion=confusion.tolist(), seconds=seconds)


@torch.no_grad()
def evaluate_pairs(model: Any, batches: Iterable[Batch], *, progress: Progress | None = None) -> PairScore:
    """The score of an EncoderDecoder: each target token from the source and the target tokens before it.

    Args:
        model: in eval mode while this lasts.
        batches: of `source`, `target` (B, N) and their masks `source_mask`, `target_mask`, bool.

    Raises:
        ValueError: no rows, or a loss that is NaN.
    """
    started, device = time.monotonic(), next(model.parameters()).device
    nats, right, predicted, exact, rows = 0.0, 0, 0, 0, 0
    with evaluating(model):
        for batch in batches:
            given = {name: tensor.to(device) for name, tensor in batch.items()}
            context = {"context": model.encode(given["source"], mask=given["source_mask"]), "context_mask": given["source_mask"]}
            losses, hits, _ = model.decoder.token_losses(given["target"], given["target_mask"], **context)
            lengths = (batch["target_mask"].sum(dim=1) - 1).clamp_min(0).tolist()
            exact += sum(bool(row.all()) for row in hits.split(lengths))
            nats, right, predicted = nats + float(losses.double().sum()), right + int(hits.sum()), predicted + len(hits)
            rows += len(lengths)
            if progress is not None:
                progress(rows)
    loss = _mean(nats, predicted)
    seconds = time.monotonic() - started
    return PairScore(rows=rows, predicted=predicted, loss=loss, accuracy=right / predicted, exact=exact / rows, seconds=seconds)


def _mean(nats: float, count: int) -> float:
    if not count:
        raise ValueError("data: there is nothing to predict in it")
    if not torch.isfinite(torch.tensor(nats)):
        raise ValueError(f"run: the model's loss is {nats}: its weights are damaged or overflow; evaluate another checkpoint")
    return nats / count
