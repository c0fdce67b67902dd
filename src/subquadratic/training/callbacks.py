"""What happens between the Trainer's steps: averaging, redrawing features, watching the loss, validating, saving, stopping.

They run in the order of this file, which matters: what is validated and saved is the state after everything else.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..core.schedule import Schedule
from .display import PlainDisplay
from .hugging_face import SubquadraticTrainer
from .run_folder import RunFolder

LOG_EVERY = 10  # optimizer steps
TRACKED = ("loss", "bits", "learning_rate", "gradient_norm", "tokens_per_second")  # what trackers hear of a step


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


class RedrawFeatures(TrainerCallback):
    """New random features every `interval` optimizer steps, drawn from (seed, step) alone: the same on every process."""

    def __init__(self, model: Any, *, interval: int, seed: int) -> None:
        self.model, self.interval, self.seed = model, interval, seed

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.interval == 0:
            seed = (self.seed * 1_000_003 + state.global_step) % 2**63
            self.model.redraw_(torch.Generator().manual_seed(seed))


class Average(TrainerCallback):
    """Keeps the moving average of the weights."""

    def __init__(self, model: Any, average: AveragedModel) -> None:
        self.model, self.average = model, average

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.average.update_parameters(self.model)


class Watch(TrainerCallback):
    """Records the losses; ends the run with an error at the first step whose loss or gradient is NaN or infinite.

    On a GPU, looking at a loss waits for it, so there it is looked at every `LOG_EVERY` steps and before anything is saved.
    """

    def __init__(
        self, trainer: SubquadraticTrainer, folder: RunFolder, display: PlainDisplay, *, tokens_per_step: int, bits: float
    ) -> None:
        self.trainer, self.folder, self.display = trainer, folder, display
        self.tokens_per_step, self.bits = tokens_per_step, bits
        self.waiting: list[tuple[int, torch.Tensor, Any]] = []  # step, loss, gradient norm; not looked at yet
        self.losses: list[float] = []  # of the steps since the last line
        self._last = (0, 0.0)  # step and seconds of the line before

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        schedule = self.trainer.schedule
        self._last = (state.global_step, schedule.elapsed() - schedule.aside)  # of a run that goes on, speeds count from here

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        loss = self.trainer.step_loss()
        self.waiting.append((step, loss, self.trainer.gradient_norm))
        logs = step == 1 or step % LOG_EVERY == 0
        if logs or loss.device.type == "cpu":
            self.check()
        if logs:
            self._log(step)

    def check(self) -> None:
        """Look at what was not looked at yet.

        Raises:
            TrainingError: at the first step that went wrong.
        """
        for step, loss, norm in self.waiting:
            value, size = float(loss), 0.0 if norm is None else float(norm)
            if not (math.isfinite(value) and math.isfinite(size)):
                self.folder.measure(step=step, loss=None, error=f"loss {value}, gradient norm {size}")
                what = f"the loss is {value}" if not math.isfinite(value) else f"the gradient's norm is {size} (the loss {value:.4g})"
                raise TrainingError(f"{what} at step {step:,}")
            self.losses.append(value)
        self.waiting.clear()

    def _log(self, step: int) -> None:
        schedule = self.trainer.schedule
        seconds = schedule.elapsed() - schedule.aside
        before = self._last
        speed = (step - before[0]) * self.tokens_per_step / max(seconds - before[1], 1e-9)
        self._last = (step, seconds)
        loss = sum(self.losses) / max(len(self.losses), 1)
        self.losses.clear()
        line: dict[str, Any] = {
            "loss": loss,
            "bits": loss * self.bits,
            "learning_rate": self.trainer.rate(),
            "gradient_norm": float(self.trainer.gradient_norm or 0.0),
            "tokens_per_second": round(speed),
        }
        line = {"step": step, "tokens": step * self.tokens_per_step, "seconds": round(seconds, 3), **line}
        self.folder.measure(**line)
        self.display.report("step", **line, seconds_left=round(schedule.remaining(step), 1))
        if self.trainer.options.trackers():
            self.trainer.log({name: line[name] for name in TRACKED})
        self.display.update(
            step=step, bits=line["bits"], speed=speed, left=schedule.remaining(step), progress=schedule.progress(step)
        )


class Signals:
    """Within the context, the first Ctrl-C, SIGTERM or closed terminal only sets `received`; a second one interrupts at once, and
    so does the first where `at_once` says that nothing would be lost. Under nohup a closed terminal is no signal."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])):
                # A script's background jobs are started to ignore Ctrl-C as well, but a signal sent to one of them is meant.
                if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None or self.at_once:
            raise KeyboardInterrupt
        self.received = number


class Milestones(TrainerCallback):
    """Validates at `count` points spread evenly over the run, the end not among them, and saves there and every `save_every` steps.

    `validate(step)` says whether training should go on (see `--patience`).
    """

    def __init__(self, validate: Callable[[int], bool], watch: Watch, schedule: Schedule, *, count: int, save_every: int | None) -> None:
        self.validate, self.watch, self.schedule, self.save_every = validate, watch, schedule, save_every
        self.marks = [(i + 1) / (count + 1) for i in range(count)]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step, progress = state.global_step, self.schedule.progress(state.global_step)
        if self.marks and self.marks[0] <= progress < 1:
            self.watch.check()
            self.marks = [mark for mark in self.marks if mark > progress]
            if not self.validate(step):
                control.should_training_stop = True
            control.should_save = True
        if self.save_every is not None and step % self.save_every == 0:
            control.should_save = True
        if control.should_save:
            self.watch.check()


class Stop(TrainerCallback):
    """Ends the run, with a checkpoint, when the schedule is done or a signal came to any of its processes."""

    def __init__(self, schedule: Schedule, signals: Signals, watch: Watch) -> None:
        self.schedule, self.signals, self.watch = schedule, signals, watch

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._signalled(args) or self.schedule.progress(state.global_step) >= 1:
            control.should_training_stop = True
        if control.should_training_stop:
            self.watch.check()
            control.should_save = True

    def _signalled(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return self.signals.received is not None
        found = torch.tensor(self.signals.received or 0, device=args.device)
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        if int(found) and self.signals.received is None:
            self.signals.received = int(found)
        return bool(int(found))
