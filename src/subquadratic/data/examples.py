"""Rows with an answer: texts with a label, to classify, or pairs of a source and a target text, for an encoder-decoder.

They come from JSON, CSV, TSV or parquet (`rows.py`), one file or many. A hash of a row's text decides its side, so
equal texts are never on both; where that leaves either side with too little, every tenth row is for validation.
Tokens are held in memory, in two flat arrays.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ..core.errors import require, require_positive
from .delimited import AUTO
from .documents import TEXT_FIELD, rows_of
from .fields import as_text, is_nothing
from .passed_over import PassedOver
from .sources import Source, find_sources, of_validation
from .token_lists import TokenLists
from .tokenizers.bytes import ByteTokenizer, Tokenizer
from .tokenizing import WHOLE, Progress, by_hash, counter, token_dtype

BATCH_ROWS = 512
MANY_CLASSES = 50  # at most so many, or one for two rows


class Rows(Dataset[dict[str, Any]]):
    """The rows `order` of flat arrays: items `{"tokens": (n,), "label": int}`, or `{"source": (n,), "target": (m,)}`."""

    def __init__(self, texts: TokenLists, answers: NDArray[np.int64] | TokenLists, order: NDArray[np.int64]) -> None:
        self.texts, self.answers, self.order = texts, answers, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.order[index])
        if isinstance(self.answers, TokenLists):
            return {"source": self.texts[row], "target": self.answers[row]}
        return {"tokens": self.texts[row], "label": int(self.answers[row])}


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Labelled rows, or pairs, to train on and to validate on.

    `labels` are the classes' names in the order of their numbers, empty for pairs; `longest` the most tokens of a text,
    or of a source and of a target. `truncated` counts the rows that `max_length` cut, `skipped` those without text, and
    `passed_over` files and bad rows that were left out.
    """

    name: str
    train: Rows
    validation: Rows
    digest: str
    split: str
    labels: tuple[str, ...]
    longest: tuple[int, ...]
    tokenizer: Tokenizer
    max_length: int | None
    truncated: int
    skipped: int
    passed_over: PassedOver = field(default_factory=PassedOver)

    def describe(self) -> str:
        """One line for people."""
        names = ", ".join(map(repr, self.labels[:4])) + (", ..." if len(self.labels) > 4 else "")
        kind = f"{len(self.labels)} classes ({names})" if self.labels else "pairs"
        longest = " and ".join(f"{length:,}" for length in self.longest)
        cut = f", {self.truncated:,} of them cut to {self.max_length:,}" if self.truncated else ""
        left_out = f", rows without text left out: {self.skipped:,}" if self.skipped else ""
        passed = self.passed_over.describe()
        return (
            f"{self.name}: {len(self.train):,} + {len(self.validation):,} rows to train + validate on, {kind}, "
            f"at most {longest} tokens{cut}{left_out}, split {self.split}, digest {self.digest[:12]}{f'; {passed}' if passed else ''}"
        )


def load_examples(
    data: str | Path | None,
    *,
    text: str = TEXT_FIELD,
    label: str | None = None,
    target: str | None = None,
    validation: str | Path | None = None,
    tokenizer: Tokenizer | None = None,
    max_length: int | None = None,
    quotes: str = AUTO,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
) -> Examples:
    """The rows of the table(s) `data`: the field `text` with the class in the field `label`, or with the text in `target`.

    Args:
        label: its values, text or integers, are the classes, in their order.
        target: its texts get a beginning and an end.
        validation: rows to validate on, read alike; none of `data` are held out then. Their labels must be among those of `data`.
        max_length: cut texts (and targets, ends included) to this many tokens; None: nothing is cut.
        quotes: what a quotation mark means in CSV and TSV files: `"auto"`, `"double"` or `"none"`, as in `delimited.py`.
        skip_bad_rows: pass over rows that cannot be used, those without a label or target among them, and count them.

    Rows without text are left out and counted.

    Raises:
        ValueError: no table, a row whose fields cannot be used, a single class, fewer than two rows.
    """
    require((label is None) != (target is None), f"one of label and target must name a field, got {label!r} and {target!r}")
    require_positive(max_length=max_length)
    require(target is None or max_length is None or max_length >= 2, f"max_length must be at least 2 for targets, got {max_length}")
    ways: dict[str, Any] = dict(text=text, quotes=quotes, skip_bad_rows=skip_bad_rows)
    source, held_out = find_sources(data, validation, rows=True, **ways)
    tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
    fields = {"text": text, **({"label": label} if label is not None else {"target": target or ""})}
    passed = source.passed()
    reader = _Reader(tokenizer, max_length, passed, pairs=target is not None)
    if held_out is None:
        _read(source, reader, fields, progress)
        return reader.finish(source.name)
    reader.begin(held_out=False)
    _read(source, reader, fields, progress)
    with of_validation():
        reader.begin(held_out=True)
        for why, name in held_out.left:
            passed.add(why, name)
        _read(held_out, reader, fields, progress)
        return reader.finish(f"{source.name} (validated on {held_out.name})")


def _read(source: Source, reader: _Reader, fields: dict[str, str], progress: Progress | None) -> None:
    """Every row of `source`, to the reader."""
    count = counter(source, progress)
    for name, path in source.files:
        if source.kind(name) is None:
            reader.passed.add(source.without_field, name)
            continue
        for where, row in rows_of(source, name, path, fields, reader.passed, count):
            reader.add(where, row, fields)


class _Reader:
    """Rows as they come, to `Examples`."""

    def __init__(self, tokenizer: Tokenizer, max_length: int | None, passed: PassedOver, *, pairs: bool) -> None:
        self.tokenizer, self.max_length, self.passed, self.pairs = tokenizer, max_length, passed, pairs
        self.texts, self.targets = TokenLists(token_dtype(tokenizer)), TokenLists(token_dtype(tokenizer))
        self.classes: dict[str, int] = {}  # in the order of their first row
        self.labels = array("q")
        self.held_out = bytearray()
        self.waiting: list[tuple[bytes, Any]] = []
        self.truncated = self.skipped = 0
        self.side: bool | None = None  # of all rows that come now; None: a hash decides

    def begin(self, *, held_out: bool) -> None:
        """The rows of one side come now, those to train on first."""
        self._encode()
        self.side = held_out

    def add(self, where: str, row: dict[str, Any], fields: dict[str, str]) -> None:
        try:
            text = as_text(row[fields["text"]], "text", fields["text"], where)
            if not text.strip():
                self.skipped += 1
                return
            answer: Any = _answer(row, fields, where)
            if self.side and not self.pairs and answer not in self.classes:
                raise ValueError(f"label: {where} has {answer!r}, and no row that is trained on; these have {', '.join(self.classes)}")
        except ValueError as error:
            self.passed.bad_row(where, str(error))
            return
        self.waiting.append((text, answer))
        if len(self.waiting) >= BATCH_ROWS:
            self._encode()

    def finish(self, name: str) -> Examples:
        self._encode()
        rows = len(self.texts)
        if rows < 2:
            needed = "at least 2 are needed, to train and to validate on"
            raise ValueError(f"data: {name} has {rows} rows with text; {needed}{self.passed.because()}")
        if not self.pairs and len(self.classes) < 2:
            raise ValueError(f"label: every row of {name} has the label {next(iter(self.classes))!r}; at least two classes are needed")
        if len(self.classes) > max(MANY_CLASSES, rows // 2):
            raise ValueError(
                f"label: {len(self.classes):,} different labels in the {rows:,} rows of {name}: that is not a class "
                "but a number or a name of each row; name another field"
            )
        held_out = np.frombuffer(self.held_out, dtype=np.uint8).astype(bool)
        split = WHOLE if self.side is not None else "by row (a hash of its text)"
        if self.side is not None:
            if not held_out.any() or held_out.all():
                raise ValueError(f"data: {name} has no rows with text{self.passed.because()}")
        elif not 0.02 <= held_out.mean() <= 0.3:
            split = "by row, every tenth to validate on"
            held_out = np.arange(rows) % 10 == min(9, rows - 1)
        labels = sorted(self.classes, key=_class_order(self.classes))
        number = {label: index for index, label in enumerate(labels)}
        numbers = np.array([number[label] for label in self.classes], dtype=np.int64)
        answers = self.targets if self.pairs else numbers[np.array(self.labels, dtype=np.int64)]
        return Examples(
            name=name,
            train=Rows(self.texts, answers, np.flatnonzero(~held_out)),
            validation=Rows(self.texts, answers, np.flatnonzero(held_out)),
            digest=self._digest([split, labels] + ([int(held_out.sum())] if self.side is not None else []), answers),
            split=split,
            labels=tuple(labels),
            longest=(self.texts.longest(), self.targets.longest()) if self.pairs else (self.texts.longest(),),
            tokenizer=self.tokenizer,
            max_length=self.max_length,
            truncated=self.truncated,
            skipped=self.skipped,
            passed_over=self.passed,
        )

    def _encode(self) -> None:
        texts = self._tokens([text for text, _ in self.waiting])
        targets = self._tokens([answer for _, answer in self.waiting]) if self.pairs else texts
        limit = self.max_length
        for (text, answer), tokens, target in zip(self.waiting, texts, targets, strict=True):
            if not len(tokens):
                self.skipped += 1
                continue
            kept_target = target if limit is None else target[: limit - 2]
            self.truncated += (limit is not None and len(tokens) > limit) or (self.pairs and len(kept_target) < len(target))
            self.texts.append(tokens[:limit])
            if self.pairs:
                ends = np.array([self.tokenizer.bos_token, self.tokenizer.eos_token])
                self.targets.append(np.concatenate([ends[:1], kept_target, ends[1:]]))
            else:
                self.labels.append(self.classes.setdefault(answer, len(self.classes)))
            self.held_out.append(by_hash(hashlib.sha256(text).hexdigest()) if self.side is None else self.side)
        self.waiting = []

    def _tokens(self, texts: list[bytes]) -> list[NDArray[Any]]:
        encode_batch = getattr(self.tokenizer, "encode_batch", None)
        return [self.tokenizer.encode(text) for text in texts] if encode_batch is None else encode_batch(texts)

    def _digest(self, facts: list[Any], answers: TokenLists | NDArray[np.int64]) -> str:
        digest = hashlib.sha256(json.dumps([self.tokenizer.digest, *facts]).encode())
        for lists in (self.texts, self.targets):
            digest.update(lists.flat)
            digest.update(lists.ends)
        if isinstance(answers, np.ndarray):
            digest.update(answers.tobytes())
        return digest.hexdigest()


def _answer(row: dict[str, Any], fields: dict[str, str], where: str) -> str | bytes:
    """The class of a row, or the text to be written.

    Raises:
        ValueError: it has none, or one that cannot be used.
    """
    argument = "label" if "label" in fields else "target"
    name = fields[argument]
    value = row[name]
    allowed = "text or an integer" if argument == "label" else "text"
    if is_nothing(value):
        raise ValueError(f"{argument}: the field {name!r} of {where} must be {allowed}, got nothing")
    if argument == "target":
        return as_text(value, argument, name, where)
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int):
        raise ValueError(f"label: the field {name!r} of {where} must be {allowed}, got {type(value).__name__} {value!r:.40}")
    return str(value)


def _class_order(classes: dict[str, int]) -> Any:
    """Numbers by value, everything else by its text."""
    try:
        return {label: (int(label), label) for label in classes}.__getitem__
    except ValueError:
        return str


def collate(items: list[dict[str, Any]], pad_token: int) -> dict[str, Tensor]:
    """A batch of items: sequences padded on the right with `pad_token`, numbers stacked, and for each of tokens, source
    and target a bool mask, True where it is real: `mask`, `source_mask`, `target_mask`."""
    batch: dict[str, Tensor] = {}
    for name, first in items[0].items():
        values = [item[name] for item in items]
        if not isinstance(first, Tensor):
            batch[name] = torch.tensor(values)
        elif first.dtype is torch.bool:
            batch[name] = pad_sequence(values, batch_first=True)
        else:
            lengths = torch.tensor([len(value) for value in values])
            batch[name] = pad_sequence(values, batch_first=True, padding_value=pad_token)
            batch["mask" if name == "tokens" else f"{name}_mask"] = torch.arange(batch[name].shape[1]) < lengths[:, None]
    return batch
