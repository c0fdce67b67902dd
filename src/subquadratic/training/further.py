"""Training a finished run further, to more steps or a longer time: where its schedule begins again, and what is checked and written."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .checkpoints import Checkpoints
from .display import clock
from .integrity import read_progress
from .options import TrainOptions
from .run_folder import RunFolder

EXTENDED = "extended"  # in run.json: every time that the run was
LENGTHS = ("max_steps", "budget")


@dataclass(frozen=True)
class Extension:
    """A finished run goes on after `step`, `elapsed` seconds into its training, its logs of `sizes` bytes."""

    step: int
    elapsed: float
    sizes: dict[str, int]

    def begins(self, progress: dict[str, Any]) -> bool:
        """Whether a checkpoint with `progress` is the one that it goes on from."""
        return bool(progress) and progress["step"] == self.step


def last_extension(facts: dict[str, Any]) -> Extension | None:
    """The newest one that `run.json` tells of."""
    found = facts.get(EXTENDED)
    return Extension(**found[-1]) if found else None


def longer(saved: TrainOptions, given: TrainOptions) -> TrainOptions | None:
    """The options of a finished run that is to go on, both resolved; None where no other length is given. Where one of the two lengths
    is, it alone ends the run."""
    changed = [name for name in LENGTHS if getattr(saved, name) != getattr(given, name) and getattr(given, name) is not None]
    if not changed:
        return None
    left: dict[str, Any] = {name: None for name in LENGTHS if name not in changed}
    return dataclasses.replace(given, **left)


def extend(folder: RunFolder, options: TrainOptions, facts: dict[str, Any]) -> dict[str, Any]:
    """Note in the run folder that the run goes on with `options`; what `run.json` says then. Its result is taken out first, so that a
    process that ends at any point leaves a run that goes on.

    Raises:
        ValueError: the run is as long already.
        CheckpointError: its last checkpoint is missing or damaged.
    """
    checkpoint = Checkpoints(folder.path).newest()
    if checkpoint is None:
        raise ValueError(f"resume: {folder.path} has no checkpoint any more; train its model in a new run, with --weights {folder.path}")
    progress = read_progress(checkpoint)
    _check_lengths(options, progress)
    place = Extension(progress["step"], progress["elapsed"], folder.sizes())
    facts = {name: value for name, value in facts.items() if name != "result"}
    facts[EXTENDED] = [*facts.get(EXTENDED, []), dataclasses.asdict(place)]
    folder.write_facts(facts)
    folder.write_options(options)
    return facts


def _check_lengths(options: TrainOptions, progress: dict[str, Any]) -> None:
    steps, seconds = progress["step"], options.seconds()
    if options.max_steps is not None and options.max_steps <= steps:
        raise ValueError(f"max_steps counts from the beginning of the run, which has taken {steps:,}: give more, got {options.max_steps:,}")
    if seconds is not None and seconds <= progress["run_seconds"]:
        had = clock(progress["run_seconds"])
        raise ValueError(f"budget counts from the beginning of the run, which has taken {had}: give more, got {options.budget}")


def describe_extension(options: TrainOptions, place: Extension) -> str:
    """One line for people."""
    end = [f"step {options.max_steps:,}"] if options.max_steps is not None else []
    end += [f"{options.budget} in all"] if options.budget is not None else []
    peak = f"{options.learning_rate:g}"
    warm = f"warms up again over {options.warmup:.0%} of that, to {peak}" if options.warmup else f"is {peak} again"
    fall = ", and falls" if options.schedule != "constant" else ""
    return f"a finished run, after step {place.step:,} to {' or '.join(end)}; the learning rate {warm}{fall}"
