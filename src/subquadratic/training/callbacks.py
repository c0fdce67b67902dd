"""What happens between the Trainer's steps: redrawing features, stopping, validating, reporting."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .display import PlainDisplay
from .run_folder import RunFolder
from .schedule import Schedule


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


class Signals:
    """Within the context, the first Ctrl-C or SIGTERM only sets `received`; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number


class Stop(TrainerCallback):
    """Ends the run when the schedule is done or a signal came."""

    def __init__(self, schedule: Schedule, signals: Signals) -> None:
        self.schedule, self.signals = schedule, signals

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.signals.received is not None or self.schedule.progress(state.global_step) >= 1:
            control.should_training_stop = True


class Validate(TrainerCallback):
    """Calls `measure(step)` at `count` points spread evenly over the run, the end not among them."""

    def __init__(self, measure: Callable[[int], object], schedule: Schedule, count: int) -> None:
        self.measure, self.schedule = measure, schedule
        self.marks = [(i + 1) / (count + 1) for i in range(count)]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        progress = self.schedule.progress(state.global_step)
        if self.marks and self.marks[0] <= progress < 1 and not control.should_training_stop:
            self.marks = [mark for mark in self.marks if mark > progress]
            self.measure(state.global_step)


class Report(TrainerCallback):
    """Shows and records what the Trainer logs; stops the run with an error where the loss is no longer a number."""

    def __init__(self, folder: RunFolder, display: PlainDisplay, schedule: Schedule, *, tokens_per_step: int) -> None:
        self.folder, self.display, self.schedule = folder, display, schedule
        self.tokens_per_step = tokens_per_step
        self._last = (0, 0.0)  # step, seconds

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs or not state.is_world_process_zero:
            return
        step, loss = state.global_step, float(logs["loss"])
        seconds = self.schedule.elapsed() - self.schedule.aside
        speed = (step - self._last[0]) * self.tokens_per_step / max(seconds - self._last[1], 1e-9)
        self._last = (step, seconds)
        self.folder.measure(
            step=step,
            tokens=step * self.tokens_per_step,
            seconds=round(seconds, 3),
            loss=loss,
            bits_per_byte=loss / math.log(2),
            learning_rate=logs.get("learning_rate"),
            gradient_norm=logs.get("grad_norm"),
            tokens_per_second=round(speed),
        )
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} after step {step}: give a smaller --learning_rate or --clip "
                f"(now {args.learning_rate} and {args.max_grad_norm})"
            )
        self.display.update(
            step=step,
            bits=loss / math.log(2),
            speed=speed,
            left=self.schedule.remaining(step),
            progress=self.schedule.progress(step),
        )
