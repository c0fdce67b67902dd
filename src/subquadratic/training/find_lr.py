"""Learning-rate range test (Smith, arXiv 1506.01186): the loss while the rate grows from tiny to too large."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..core.plain_json import to_json
from ..core.schedule import Schedule
from .callbacks import Signals, TrainingError
from .checkpoints import Checkpoints
from .display import PlainDisplay
from .hugging_face import SubquadraticTrainer
from .options import TrainOptions
from .plots import plot_rates
from .problems.problem import Problem
from .run_folder import RunFolder

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 100
SMOOTHING = 0.9  # of the running mean that is looked at
DIVERGED = 2.0  # nats over the best smoothed loss


class Rising(Schedule):
    """Rates from LOWEST to HIGHEST, evenly in their logarithm; the optimizer's own rate is 1."""

    def factor(self, step: int) -> float:
        return LOWEST * (HIGHEST / LOWEST) ** (step / max((self.max_steps or STEPS) - 1, 1))


class Record(TrainerCallback):
    """Keeps (rate, loss, smoothed loss) and ends the test when the loss runs away."""

    def __init__(self, trainer: SubquadraticTrainer, signals: Signals, display: PlainDisplay) -> None:
        self.trainer, self.signals, self.display = trainer, signals, display
        self.rows: list[tuple[float, float, float]] = []
        self._mean = 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        loss = float(self.trainer.step_loss())
        step = state.global_step
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        smooth = self._mean / (1 - SMOOTHING**step)
        if math.isfinite(loss):
            self.rows.append((self.trainer.schedule.factor(step - 1), loss, smooth))
        best = min((row[2] for row in self.rows), default=math.inf)
        if not math.isfinite(loss) or smooth > best + DIVERGED or self.signals.received is not None:
            control.should_training_stop = True


def find_lr(problem: Problem, options: TrainOptions, folder: RunFolder, display: PlainDisplay) -> dict[str, Any]:
    """Run the test; the rates and losses go to `find_lr.json` and `find_lr.svg` in the folder.

    Returns:
        "rates", "losses", "smoothed", and "suggested": a third of the rate at which the smoothed loss was lowest; it is the peak
        of a schedule with warm-up, which bears more than a constant rate does.
    """
    torch.manual_seed(options.seed)
    model = problem.build()
    schedule = Rising(max_steps=STEPS, seconds=None, warmup=0.0)
    place = Checkpoints(folder.path)
    trainer = SubquadraticTrainer(problem, model, options, schedule=schedule, checkpoints=place, output_dir=str(folder.path))
    trainer.args.max_steps, trainer.args.learning_rate = STEPS, 1.0
    with Signals() as signals:
        record = Record(trainer, signals, display)
        trainer.add_callback(record)
        schedule.start(None)
        trainer.train()
    rates, losses, smoothed = (list(column) for column in zip(*record.rows, strict=True))
    lowest = min(range(len(rates)), key=lambda i: smoothed[i])
    suggested = float(f"{rates[lowest] / 3:.1g}")
    found = {"rates": rates, "losses": losses, "smoothed": smoothed, "suggested": suggested}
    _show(rates, smoothed, lowest, display)
    display.say(f"suggested   --learning_rate {suggested:g} (a third of the rate with the lowest loss; now {options.learning_rate:g})")
    if folder.writes:
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.write_text("find_lr.json", to_json(found) + "\n")
            plot_rates(folder.path / "find_lr.svg", rates, losses, smoothed, suggested)
        except OSError as error:
            raise TrainingError(f"out: cannot write {folder.path}: {error.strerror or error}; the rates were shown") from error
        display.say(f"plot        {folder.path / 'find_lr.svg'}")
    display.report("find_lr", None, **found)
    return found


def _show(rates: list[float], smoothed: list[float], lowest: int, display: PlainDisplay) -> None:
    top, bottom = max(smoothed), min(smoothed)
    for i in range(0, len(rates), 5):
        bar = "█" * round(40 * (smoothed[i] - bottom) / max(top - bottom, 1e-9))
        mark = "  lowest" if i <= lowest < i + 5 else ""
        display.say(f"  {rates[i]:>8.1e}  {smoothed[i]:7.3f}  {bar}{mark}")
