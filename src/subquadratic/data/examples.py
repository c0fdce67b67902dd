"""Rows with an answer: texts with a label, to classify, or pairs of a source and a target text, for an encoder-decoder.

Tokens are held in memory, in two flat arrays. `example_loading.py` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from .passed_over import PassedOver
from .token_lists import TokenLists
from .tokenizers.bytes import Tokenizer


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
