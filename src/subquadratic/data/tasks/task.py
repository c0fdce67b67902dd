"""What a task is to training, and how one is made from its name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ...core.errors import require, require_choice, require_positive
from ..task_names import TASK_KINDS, TASKS
from .dyck import Dyck
from .listops import ListOps
from .recall import Recall
from .repetition import Copy, Mirror
from .variables import Variables

FORMAT = 1  # of the generators: another number where the same seed gives other items
TRAIN_SIZE, VALIDATION_SIZE = 1_000_000, 1000


class Generator(Protocol):
    """A task's rules: a frozen dataclass of its options, of which `length` is one."""

    @property
    def length(self) -> int: ...
    @property
    def vocabulary(self) -> tuple[str, ...]: ...

    def sample(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], Any]:
        """Tokens (n,), and which of them can be known, (n,) bool; or, for classification, the class."""
        ...


GENERATORS: dict[str, type[Any]] = {
    "copy": Copy,
    "mirror": Mirror,
    "recall": Recall,
    "dyck": Dyck,
    "variables": Variables,
    "listops": ListOps,
}


class Items(Dataset[dict[str, Any]]):
    """Item i depends on the seed, the side and i alone. Language: `tokens` (N,) int64 and `scored` (N,) bool, the tokens
    that count in loss and accuracy since they can be known from those before. Classification: `tokens` (n,) and `label`."""

    def __init__(self, generator: Generator, *, kind: str, seed: int, side: int, size: int) -> None:
        self.generator, self.kind, self.seed, self.side, self.size = generator, kind, seed, side, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        if not -self.size <= index < self.size:
            raise IndexError(f"item {index} of {self.size}")
        tokens, answer = self.generator.sample(np.random.default_rng([self.seed, self.side, index % self.size]))
        if self.kind == "classification":
            return {"tokens": torch.from_numpy(tokens), "label": int(answer)}
        return {"tokens": torch.from_numpy(tokens), "scored": torch.from_numpy(answer)}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task ready to train on.

    `vocabulary` spells each token (0 is padding); `num_classes` is 0 for language tasks; `length` is the most tokens that
    an item has. `digest` says which items these are.
    """

    name: str
    kind: str
    length: int
    vocabulary: tuple[str, ...]
    num_classes: int
    digest: str
    train: Items
    validation: Items
    options: dict[str, Any]

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    def spell(self, tokens: Tensor | NDArray[Any]) -> str:
        """Tokens in words, for people."""
        return " ".join(self.vocabulary[int(token)] for token in tokens)

    def describe(self) -> str:
        """One line for people."""
        options = "".join(f", {name} {value}" for name, value in self.options.items() if name != "length")
        what = f"{self.num_classes} classes" if self.kind == "classification" else f"{self.vocab_size} symbols"
        most = "up to " if self.kind == "classification" else ""
        return (
            f"{self.name}: {most}{self.length:,} tokens, {what}{options}; "
            f"{len(self.train):,} + {len(self.validation):,} items made as needed, digest {self.digest[:12]}"
        )


def make_task(
    name: str, *, length: int = 256, seed: int = 0, train_size: int | None = None, validation_size: int | None = None, **options: Any
) -> Task:
    """The task of that name, with items of `length` tokens; the other options are the task's own.

    Raises:
        ValueError: an unknown task or option, or one out of range.
    """
    require_choice("task", name, TASKS)
    require_positive(length=length, train_size=train_size, validation_size=validation_size)
    require(isinstance(seed, int) and seed >= 0, f"seed must be an integer of at least 0, got {seed!r}")
    rules = GENERATORS[name]
    known = [field.name for field in dataclasses.fields(rules) if field.name != "length"]
    for option in options:
        require_choice(f"task_options of {name}", option, known)
    generator = rules(length=length, **options)
    chosen = dataclasses.asdict(generator)
    sizes = (train_size or TRAIN_SIZE, validation_size or VALIDATION_SIZE)
    content = json.dumps([FORMAT, name, chosen, seed, sizes], sort_keys=True)
    train, validation = (
        Items(generator, kind=TASK_KINDS[name], seed=seed, side=side, size=size) for side, size in enumerate(sizes)
    )
    return Task(
        name=name,
        kind=TASK_KINDS[name],
        length=length,
        vocabulary=generator.vocabulary,
        num_classes=10 if name == "listops" else 0,
        digest=hashlib.sha256(content.encode()).hexdigest(),
        train=train,
        validation=validation,
        options=chosen,
    )
