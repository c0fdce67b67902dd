"""What a run learns: its data, its model and its measure, whatever the kind.

| kind                   | a batch                                | loss                     | made in                   |
|------------------------|----------------------------------------|--------------------------|---------------------------|
| language               | tokens, and which are scored           | next or masked tokens    | `language.py`             |
| classification         | tokens, mask, labels                   | the class                | `classification.py`       |
| sequence_to_sequence   | source and target with their masks     | the target's tokens      | `sequence_to_sequence.py` |

The rest of the engine knows only what stands here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ...layers.modes import evaluating

Batch = dict[str, Tensor]
SAMPLE_ITEMS = 64  # windows or rows in a validation during a run


@dataclass(frozen=True)
class Sums:
    """What a batch adds to a score: nats, right guesses, predictions, and the bytes of text these stand for (0: not text)."""

    nats: float
    right: int
    predicted: int
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Score:
    """A validation.

    `loss` is the mean in nats per prediction, `accuracy` the share of predictions that were likeliest and right,
    `bits_per_byte` the information per byte of text (None where the data is not text), `items` how many windows or rows were
    looked at, `seconds` how long it took.
    """

    loss: float
    accuracy: float
    predicted: int
    bits_per_byte: float | None
    items: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        values = {
            "validation_loss": self.loss,
            "validation_bits_per_byte": self.bits_per_byte,
            "validation_bits_per_token": self.loss / math.log(2),
            "validation_accuracy": self.accuracy,
            "validation_predicted": self.predicted,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """See the table above.

    Args:
        kind: one of the three.
        text: one line for people.
        facts: what `run.json` keeps: above all `digest`, by which two runs are known to be comparable.
        train, validation: map-style datasets; item i is always the same.
        collate: items to a batch, the keyword arguments of the model's `loss`.
        build: a new model, with weights drawn from torch's generator.
        loss: (model, batch) to the mean loss in nats.
        count: (model, batch) to how many predictions that is the mean of, a scalar: the batch's weight among those of a step.
        sums: (model in eval mode, batch, a seeded generator) to what the batch adds to the score.
        headline: a score in words.
        sample: (model, seed) to something to look at, or nothing.
        tokens: tokens in an item of the training data (padding among them, the longest where they differ).
        size: tokens of the training data, counted alike.
        bits: factor from nats per prediction to what the progress line shows, and its unit.
        uniform: nats per prediction of a guess among all tokens or classes alike.
        references: what a score may be compared with, by name; computed when asked for.
        snippet: the Python lines that use the model, for the run's page (`snippets.py`).
        save_extra: writes what belongs to a saved model beside it, its tokenizer above all.
        sample_items: items of the validation data that are looked at during a run.
        closing: the command that uses the model, given the run's folder.
    """

    kind: str
    text: str
    facts: dict[str, Any]
    train: Any
    validation: Any
    collate: Callable[[list[Any]], Batch]
    build: Callable[[], Any]
    sums: Callable[[Any, Batch, torch.Generator], Sums]
    loss: Callable[[Any, Batch], Tensor] = field(default=lambda model, batch: model.loss(**batch))
    count: Callable[[Any, Batch], Tensor] = field(default=lambda model, batch: model.count_predictions(**batch))
    headline: Callable[[Score], str]
    sample: Callable[[Any, int], str]
    tokens: int
    size: int
    uniform: float
    snippet: str
    bits: tuple[float, str] = (1 / math.log(2), "bits/token")
    references: Callable[[], dict[str, float]] = dict
    save_extra: Callable[[Any], None] = field(default=lambda folder: None)
    sample_items: int = SAMPLE_ITEMS
    closing: Callable[[str], str] = field(default=lambda folder: f"subq evaluate {folder}")

    @property
    def digest(self) -> str:
        """Says which data this is."""
        return self.facts["digest"]


@torch.no_grad()
def validate(problem: Problem, model: Any, items: Any, *, batch_size: int, seed: int, deadline: float = math.inf) -> Score:
    """The score of `model` on `items` of the validation data, in eval mode; what is masked depends on `seed` and the order alone.
    After `deadline`, on the monotonic clock, it looks at no more than a sample."""
    started, device = time.monotonic(), next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    nats, right, predicted, size, done = 0.0, 0, 0, 0, 0
    with evaluating(model):
        # A loader of its own generator: without, it would draw from torch's, and a run would depend on how often it is measured.
        for batch in DataLoader(items, batch_size=batch_size, collate_fn=problem.collate, generator=torch.Generator()):
            sums = problem.sums(model, {name: value.to(device) for name, value in batch.items()}, generator)
            nats, right, predicted, size = nats + sums.nats, right + sums.right, predicted + sums.predicted, size + sums.bytes
            done = min(done + batch_size, len(items))
            if done >= SAMPLE_ITEMS and time.monotonic() > deadline:
                break
    return Score(
        loss=nats / max(predicted, 1),
        accuracy=right / max(predicted, 1),
        predicted=predicted,
        bits_per_byte=nats / math.log(2) / size if size else None,
        items=done,
        seconds=time.monotonic() - started,
    )


def spread(items: Any) -> Any:
    """The items in an order whose every beginning is spread over all of them: each 16th, then those between."""
    return Subset(items, [i for first in (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15) for i in range(first, len(items), 16)])


def evenly(items: Any, count: int) -> Any:
    """At most `count` of the items, spread evenly over all of them."""
    if len(items) <= count:
        return items
    return Subset(items, [i * len(items) // count for i in range(count)])
