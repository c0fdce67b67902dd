"""A model of the comparison as something to train: the options of its runs, and the problem with this model to build.

All entries learn from the same windows in the same order and are scored on the same tokens, each of which has at least half a window before
it: a Perceiver AR predicts the second half of a window alone, and others would otherwise be asked for tokens of which they see less.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..evaluation.windows import TextWindows
from ..training.entry import state_problem
from ..training.options import TrainOptions
from ..training.problems.problem import Problem
from ..training.resolving import resolve
from .foreign import ForeignModel
from .options import CompareOptions, training_options
from .sizing import default_options

STAND_IN = "transformer"  # whose options a foreign model has: batch, schedule, decay
TOKENS_PER_STEP = 512
FOREIGN_RATE = 1e-3
SNIPPET = """\
from subquadratic.comparison.foreign import ForeignModel

print(model)
"""
CAUSAL_ONLY = "a model of another package predicts the next token, and nothing else"


@dataclass(frozen=True)
class Contestant:
    """`options` are resolved, but for the seed and the learning rate of a run; `spec` is None for a model of this package."""

    name: str
    options: TrainOptions
    spec: dict[str, Any] | None = None


def contestant(options: CompareOptions, name: str, spec: dict[str, Any] | None, chosen: dict[str, Any] | None = None) -> Contestant:
    """The entry as it is by default, or with what was chosen for it before (`Entry.options`).

    Raises:
        ValueError: the model cannot learn such data, or options exclude each other.
    """
    own = training_options(options, budget="1m", quiet=True, evaluations=5, keep=1)
    own = default_options(STAND_IN if spec is not None else name, own)
    if chosen:
        own = dataclasses.replace(own, **{key: chosen[key] for key in ("dim", "depth", "heads", "fields") if key in chosen})
    batch = options.batch_size
    if batch is None and own.kind == "language":
        batch = max(1, TOKENS_PER_STEP // options.length)
    own = resolve(dataclasses.replace(own, batch_size=batch))
    if spec is not None:
        if own.kind != "language" or not own.causal or own.task is not None:
            raise ValueError(CAUSAL_ONLY)
        own = dataclasses.replace(own, model=name, learning_rate=FOREIGN_RATE)
    return Contestant(name, own, spec)


def problem_of(entry: Contestant, data: Any, *, sample_items: int) -> Problem:
    """What the entry learns from data that were read before.

    Raises:
        ValueError: too little data, or a model that cannot learn them.
    """
    options = entry.options if entry.spec is None else dataclasses.replace(entry.options, model=STAND_IN)
    problem = state_problem(options, data)
    changes: dict[str, Any] = {"sample": lambda model, seed: "", "references": dict, "sample_items": sample_items}
    windows = problem.validation
    if isinstance(windows, TextWindows) and not windows.passes:
        changes["validation"] = TextWindows(windows.text, length=windows.length, advance=max(1, windows.length // 2))
    if entry.spec is not None:
        spec, length, vocab_size = entry.spec, problem.tokens, data.tokenizer.vocab_size
        changes["build"] = lambda: ForeignModel(spec, vocab_size=vocab_size, length=length)
        changes["snippet"] = SNIPPET
    return dataclasses.replace(problem, **changes)


def scale(options: TrainOptions, problem: Problem) -> tuple[str, float]:
    """The unit that entries are compared in, and what makes it of nats per prediction; accuracy is counted instead."""
    if options.kind == "classification" or options.task is not None:
        return "accuracy", 0.0
    return problem.bits[1], problem.bits[0]
