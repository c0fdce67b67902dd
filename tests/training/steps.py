"""Losses and gradient norms of a run's first steps, for test_accumulation.py; under torchrun a script, on as many processes."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from subquadratic.core.schedule import Schedule
from subquadratic.training import TrainOptions
from subquadratic.training.checkpoints import Checkpoints
from subquadratic.training.entry import prepare
from subquadratic.training.hugging_face import SubquadraticTrainer
from subquadratic.training.problems.problem import Problem
from subquadratic.training.resolving import resolve

SIZES: dict[str, Any] = {"model": "transformer", "dim": 16, "depth": 1, "heads": 2, "learning_rate": 1e-7, "warmup": 0.0, "clip": 1e9}
ROWS = 37
KINDS: dict[str, dict[str, Any]] = {
    "pairs": {"data": "rows.jsonl", "target": "answer"},
    "classes": {"data": "rows.jsonl", "label": "class"},
    "text": {"data": "text.txt", "context": 16},
    "masked text": {"data": "text.txt", "context": 16, "causal": False},
    "task": {"task": "dyck", "context": 32},
    "masked task": {"task": "dyck", "context": 32, "causal": False},
    "last tokens": {"task": "dyck", "context": 32, "model": "perceiver_ar", "fields": {"latents": 5}},
    "classes of a task": {"task": "listops", "context": 32, "model": "fastformer"},
}


class Sparse(torch.utils.data.Dataset[dict[str, Any]]):
    """The first `size` items, of which most score nothing."""

    def __init__(self, items: Any, size: int) -> None:
        self.items, self.size = items, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        return {**item, "scored": item["scored"] & (index % 7 == 0)} if "scored" in item else item


def write_data(folder: Path) -> None:
    """What the kinds read: rows of uneven lengths, and a text."""
    answers = [("ab" if i % 2 else "xyz " * 20) + str(i) for i in range(47)]
    rows = [{"text": "source " * (i % 4 + 1) + str(i), "class": i % 3, "answer": answer} for i, answer in enumerate(answers)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "text.txt").write_text("def brown(fox):\n    return jumps.over(lazy_dog)\n" * 4)


class Record(TrainerCallback):
    """Keeps (loss, gradient norm) of every step."""

    def __init__(self, trainer: SubquadraticTrainer) -> None:
        self.trainer = trainer
        self.found: list[tuple[float, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.found.append((float(self.trainer.step_loss()), float(self.trainer.gradient_norm or 0.0)))


def first_steps(folder: Path, kind: str, batch_size: int, accumulation: int, steps: int) -> list[tuple[float, float]]:
    """Of a model that hardly learns, so that the steps differ by their rows alone."""
    chosen = KINDS[kind]
    data = {"data": str(folder / chosen["data"])} if "data" in chosen else {}
    split = {"batch_size": batch_size, "accumulation": accumulation, "max_steps": steps, "precision": "float32"}
    options = TrainOptions(**{**SIZES, **chosen, **data, **split})
    options, problem = prepare(resolve(options))
    if "task" in chosen:
        problem = dataclasses.replace(problem, train=Sparse(problem.train, ROWS))
    return trained(problem, options, folder)


def trained(problem: Problem, options: TrainOptions, folder: Path) -> list[tuple[float, float]]:
    torch.manual_seed(0)
    schedule = Schedule(max_steps=options.max_steps, seconds=None, warmup=0.0, shape="constant")
    trainer = SubquadraticTrainer(
        problem, problem.build(), options, schedule=schedule, checkpoints=Checkpoints(folder), output_dir=str(folder / "out")
    )
    record = Record(trainer)
    trainer.add_callback(record)
    schedule.start(None)
    trainer.train()
    return record.found


if __name__ == "__main__":
    place, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    found = [first_steps(place, *case) for case in cases]
    if torch.distributed.get_rank() == 0:
        (place / "found.json").write_text(json.dumps(found))
