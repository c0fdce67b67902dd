"""The data to measure a trained model on: its own validation side, or what is named, read as the run's own data were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Corpus, Examples, collate, load_corpus, load_examples, load_tokenizer, make_task
from ..data.finding import fitting
from ..data.source import STDIN
from ..data.tokenizers.bytes import Tokenizer
from ..data.tokenizers.values import reads_values
from ..data.ways import ROW_WAYS, WAYS
from .predict import row_limit
from .text import Text
from .trained import Trained
from .vocabulary import check_tokenizer, model_tokenizer

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is measured on: a text, or batches of rows. `notes` say what a reader of the score should know."""

    name: str
    side: str
    digest: str
    size: int
    unit: str
    text: Text | None = None
    batches: Callable[[], Iterator[dict[str, Tensor]]] | None = None
    labels: list[str] = field(default_factory=list)
    tokenizer: Tokenizer | None = None
    notes: list[str] = field(default_factory=list)


def ways_to_read(run: Trained, data: str | None, *, rows: bool, **given: Any) -> dict[str, Any]:
    """How `data` are read, of `WAYS`: as given; else, where it is not None, as the run's own were, so far as that means something
    for other data. `rows`: labelled rows or pairs are wanted.

    Raises:
        ValueError: there are no such data.
    """
    own = {name: run.options.get(name, usual) for name, usual in WAYS.items() if given[name] is None}
    named = {name: value for name, value in given.items() if value is not None}
    return {**WAYS, **(own if data is None else fitting(data, rows=rows, **own)), **named}


def text_material(
    run: Trained,
    data: str | None,
    *,
    ways: dict[str, Any],
    tokenizer: str | None,
    tokens: int | None = None,
    progress: Progress | None = None,
) -> Material:
    """The text, integers or numbers that `data` names, or the validation side of what the run was trained on.

    Raises:
        ValueError: no such text, a tokenizer that is not the model's.
    """
    chosen = model_tokenizer(run.folder, tokenizer=tokenizer, tokens=tokens)
    check_tokenizer(run, chosen)
    corpus = load_corpus(_data_or_own(run, data), validation=_own_validation(run, data), tokenizer=chosen, progress=progress, **ways)
    own = corpus.digest == run.digest
    notes = _passed_over(corpus) + ([corpus.read_as] if corpus.read_as else []) + _trained_on(run, data)
    if data is None and run.digest is not None and not own:
        notes.append("the data has changed since the training: part of it may have been trained on")
    if data is not None and own:
        notes.append(f"this is the {'data' if reads_values(chosen) else 'text'} it was trained on: only the validation side is measured")
    text = validation_text(corpus) if own or data is None else whole_text(corpus)
    side = "validation side" if own or data is None else "all of it"
    return Material(
        name=corpus.name, side=side, digest=corpus.digest, size=len(text), unit="tokens", text=text, tokenizer=chosen, notes=notes
    )


def validation_text(corpus: Corpus) -> Text:
    """What training validates on; a document cut by the split has no beginning in it."""
    starts = corpus.validation_starts
    return Text([corpus.validation], starts[starts > 0] if _cut(corpus) else starts)


def whole_text(corpus: Corpus) -> Text:
    """Both sides."""
    starts = corpus.validation_starts
    inner = starts[starts > 0] if _cut(corpus) else starts
    return Text([corpus.train, corpus.validation], np.concatenate([corpus.train_starts, inner + len(corpus.train)]))


def _cut(corpus: Corpus) -> bool:
    """Whether the border between the sides may lie within a document."""
    return corpus.split.startswith("by position")


def _passed_over(data: Corpus | Examples) -> list[str]:
    said = data.passed_over.describe()
    return [said] if said else []


def _data_or_own(run: Trained, data: str | None) -> str | None:
    if data is not None:
        return data
    if not run.options:
        raise ValueError(f"data: {run.folder} does not say what it was trained on (it has no run.yaml); give --data PATH")
    own = run.options.get("data")
    if own == "-":
        raise ValueError("data: it was trained on standard input, which is gone; give --data PATH")
    return own


def _own_validation(run: Trained, data: str | None) -> str | None:
    """What the run validated on, where its own data are asked for and other data were named to validate on."""
    own = run.options.get("validation_data")
    if own == "-" and data is None:
        raise ValueError("data: it was validated on standard input, which is gone; give --data PATH")
    return own if data is None else None


def _trained_on(run: Trained, data: str | None) -> list[str]:
    """A note where all of `data` was trained on, since the run was validated on other data."""
    own = run.options.get("data")
    if data is None or run.options.get("validation_data") is None or Path(data).expanduser().absolute() != Path(own or "").absolute():
        return []
    return ["this is what it was trained on, all of it; what it was validated on is measured without --data"]


def rows_material(
    run: Trained,
    data: str | None,
    *,
    ways: dict[str, Any],
    label: str | None,
    target: str | None,
    tokenizer: str | None,
    batch_size: int,
    progress: Progress | None = None,
) -> Material:
    """The rows that `data` names, or the validation rows of those that the run was trained on.

    Raises:
        ValueError: rows that cannot be read, or labels that the model does not know.
    """
    chosen = load_tokenizer(tokenizer if tokenizer is not None else run.folder)
    check_tokenizer(run, chosen)
    place = _data_or_own(run, data)
    if place is None:
        raise ValueError("data: rows with a label or a target are needed, as in --data rows.csv")
    rows = {name: ways[name] for name in ROW_WAYS}
    columns: dict[str, Any] = {"label": label, "target": target, "validation": _own_validation(run, data)}
    read = partial(load_examples, place, tokenizer=chosen, progress=progress, **columns, **rows)
    limit = row_limit(run.model)
    # Its own rows are cut as they were in training, by which they are known again; others as far as the model reaches.
    again = data != STDIN and data in (None, run.options.get("data"))  # what is piped in is read once, and is other data
    cut = run.options.get("context", limit) if again else limit
    examples = read(max_length=cut)
    if examples.digest != run.digest and cut != limit:
        examples = read(max_length=limit)
    own = examples.digest == run.digest
    notes = _passed_over(examples) + _trained_on(run, data)
    if examples.skipped:
        notes.append(f"rows without text left out: {examples.skipped:,}")
    if examples.truncated:
        notes.append(f"{examples.truncated:,} rows were cut to {examples.max_length:,} tokens")
    if data is None and run.digest is not None and not own:
        notes.append("the data has changed since the training: some of these rows may have been trained on")
    if data is not None and own:
        notes.append("these are the rows it was trained on: only the validation side is measured")
    sides = [examples.validation] if own or data is None else [examples.train, examples.validation]
    labels = _labels(run, list(examples.labels)) if label is not None else []
    numbers = torch.tensor([labels.index(name) for name in examples.labels], dtype=torch.int64)

    def batches() -> Iterator[dict[str, Tensor]]:
        items = [(side, index) for side in sides for index in range(len(side))]
        for first in range(0, len(items), batch_size):
            batch = collate([side[index] for side, index in items[first : first + batch_size]], chosen.pad_token)
            if label is not None:
                batch["labels"] = numbers[batch.pop("label")]
            yield batch

    return Material(
        name=examples.name,
        side="validation side" if own or data is None else "all of it",
        digest=examples.digest,
        size=sum(map(len, sides)),
        unit="rows",
        batches=batches,
        labels=labels,
        tokenizer=chosen,
        notes=notes,
    )


def known_labels(run: Trained) -> list[str]:
    """The names of a classifier's classes in the order of its logits; none where neither the model nor its run says."""
    if run.model.labels is not None:
        return list(run.model.labels)
    corpus = run.facts.get("corpus")
    return list(corpus.get("labels") or []) if isinstance(corpus, dict) else []


def _labels(run: Trained, found: list[str]) -> list[str]:
    """The classes of the model, in its order.

    Raises:
        ValueError: the rows have others.
    """
    known = known_labels(run)
    if not known:
        if len(found) != run.model.num_classes:
            names = ", ".join(map(repr, found[:5]))
            raise ValueError(f"label: the rows have {len(found)} classes ({names}), the model {run.model.num_classes}")
        return found
    strange = [name for name in found if name not in known]
    if strange:
        raise ValueError(f"label: the model does not know the class {strange[0]!r}; its classes are {', '.join(known[:20])}")
    return known


def task_material(run: Trained, *, batch_size: int) -> Material:
    """The validation items of the synthetic task that the run learned."""
    task = make_task(
        run.options["task"], length=run.options["context"], seed=run.options.get("seed", 0), **(run.options.get("task_options") or {})
    )

    def batches() -> Iterator[dict[str, Tensor]]:
        for first in range(0, len(task.validation), batch_size):
            items = [task.validation[i] for i in range(first, min(first + batch_size, len(task.validation)))]
            batch = collate(items, 0)
            yield {("labels" if name == "label" else name): tensor for name, tensor in batch.items()}

    labels = [str(number) for number in range(task.num_classes or 0)]
    size = len(task.validation)
    return Material(
        name=task.describe(), side="validation items", digest=task.digest, size=size, unit="items", batches=batches, labels=labels
    )
