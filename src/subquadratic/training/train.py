"""`train`: from options to a run folder, on the Hugging Face Trainer."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

# Nothing here needs the hub; without this, an import may look for it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from transformers import TrainerCallback

from ..data import Corpus, Windows, load_corpus
from ..models.language_model import LanguageModel
from .callbacks import RedrawFeatures, Report, Signals, Stop, TrainingError, Validate
from .display import PlainDisplay, clock, make_display
from .objective import Score, evenly, validate
from .options import TrainOptions
from .run_folder import RunFolder
from .samples import sample_of
from .schedule import Schedule
from .setup import describe, make_model, make_windows, references
from .trainer import SubquadraticTrainer

SAMPLE_WINDOWS = 64  # in the validations during the run
FINAL_SHARE = 0.1  # of a time budget, for the validation at the end
ENDING_SHARE = 0.03  # of a time budget, for a sample and writing


@dataclass(frozen=True)
class TrainResult:
    """What came out. `signal` is the number of the signal that ended the run early, else None."""

    folder: RunFolder
    model: LanguageModel
    steps: int
    score: Score
    sample: str
    signal: int | None


def train(options: TrainOptions, display: PlainDisplay | None = None) -> TrainResult:
    """Train one model and leave it in its run folder.

    Raises:
        ValueError: for options, data or a run folder that cannot be used; nothing has been written then.
        TrainingError: the loss became infinite or NaN. The folder keeps the last good model, if there is one.
    """
    started = time.monotonic()
    options = options.resolve()
    display = make_display() if display is None else display
    if options.budget is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("budget is for one process, since each has its own clock; give max_steps instead")
    folder = RunFolder.choose(options.out, model=options.model, overwrite=options.overwrite)
    corpus = load_corpus(options.data)
    train_windows, validation_windows = make_windows(corpus, options)
    model = make_model(options)
    facts = describe(options, corpus, model)
    folder.open({**dataclasses.asdict(options), "out": None, "overwrite": False}, facts)
    display.say(f"data        {corpus.describe()}")
    display.say(f"model       {options.model}, {facts['parameters'] / 1e6:.2f} M parameters, in {folder.path}")

    run = _Run(options, model, folder, display, validation_windows)
    with Signals() as signals:
        steps = run.fit(train_windows, signals, started)
        return run.finish(corpus, facts, steps, signals.received)


class _Run:
    """The parts of a run that training and its end share."""

    def __init__(self, options: TrainOptions, model: LanguageModel, folder: RunFolder, display: PlainDisplay, windows: Windows) -> None:
        self.options, self.model, self.folder, self.display, self.windows = options, model, folder, display, windows
        self.schedule = Schedule(max_steps=options.max_steps, seconds=options.seconds(), warmup=options.warmup)
        self.seconds = 0.0  # of training
        self.deadline: float | None = None  # of the last validation, on the monotonic clock; None: no budget
        self.window_seconds = 0.0  # that a validation took for a window
        tokens = options.validation_tokens
        self.final_windows = len(windows) if tokens is None else min(len(windows), math.ceil(tokens / windows.stride))
        self.validate = partial(validate, model, batch_size=options.batch_size or 1, seed=options.seed)

    def fit(self, train_windows: Windows, signals: Signals, started: float) -> int:
        """Train until the schedule or a signal ends it; the number of optimizer steps taken."""
        options = self.options
        assert options.context and options.batch_size
        trainer = SubquadraticTrainer(self.model, options, windows=train_windows, schedule=self.schedule, output_dir=str(self.folder.path))
        tokens_per_step = options.context * options.batch_size * options.accumulation * trainer.args.world_size
        for callback in self._callbacks(signals, tokens_per_step):
            trainer.add_callback(callback)
        self._measure(0)
        seconds = options.seconds()
        if seconds is not None:
            self.deadline = started + seconds * (1 - ENDING_SHARE)
            final = min(seconds * FINAL_SHARE, self.final_windows * self.window_seconds)
            seconds = max(self.deadline - final - time.monotonic(), 1e-3)
        self.schedule.start(seconds)
        try:
            steps = trainer.train().global_step
        finally:
            self.display.close()
        self.seconds = self.schedule.elapsed()
        return steps

    def finish(self, corpus: Corpus, facts: dict[str, Any], steps: int, signal: int | None) -> TrainResult:
        """Save the model, measure it on the whole validation text (a sample where a signal hurries us), and say so."""
        self.model.save_pretrained(self.folder.path)
        count = SAMPLE_WINDOWS if signal is not None else self._affordable_windows()
        score = self.validate(evenly(self.windows, count))
        self.folder.measure(step=steps, final=True, **score.to_dict())
        unigram, xz = references(corpus)
        result = {"steps": steps, "train_seconds": round(self.seconds, 1), "interrupted": signal is not None}
        references_ = {"unigram_bits_per_byte": unigram, "xz_bits_per_byte": xz}
        self.folder.write_facts({**facts, "result": {**result, **score.to_dict(), **references_}})
        if signal is not None:
            self.display.say(f"stopped     by signal {signal} after step {steps:,}; the model is saved")
        masked = "" if score.accuracy is None else f"masked, {score.accuracy:.1%} right, "
        part = "all" if count >= len(self.windows) else f"{count / len(self.windows):.0%}"
        self.display.say(
            f"validation  {score.bits:.3f} bits/byte ({masked}{score.predicted:,} bytes, {part} of the validation text; "
            f"for comparison xz {xz:.2f}, byte frequencies {unigram:.2f})"
        )
        sample = "" if signal is not None else sample_of(self.model, self.windows, seed=self.options.seed)
        if sample:
            self.display.say(f"sample      {'-' * 60}\n{sample}\n{'-' * 72}")
        if self.model.config.causal:
            self.display.say(f'go on       subq generate {self.folder.path} --prompt "def "')
        return TrainResult(self.folder, self.model, steps, score, sample, signal)

    def _affordable_windows(self) -> int:
        """How much of the validation text fits into what is left of the budget, at the speed of the last sample."""
        if self.deadline is None:
            return self.final_windows
        affordable = int((self.deadline - time.monotonic()) / self.window_seconds)
        return max(min(SAMPLE_WINDOWS, self.final_windows), min(affordable, self.final_windows))

    def _callbacks(self, signals: Signals, tokens_per_step: int) -> list[TrainerCallback]:
        options = self.options
        report = Report(self.folder, self.display, self.schedule, tokens_per_step=tokens_per_step)
        callbacks = [report, Stop(self.schedule, signals), Validate(self._measure, self.schedule, options.evaluations)]
        interval = getattr(self.model.config, "redraw_interval", None)
        if interval is not None:
            callbacks.append(RedrawFeatures(self.model, interval=interval, seed=options.seed))
        return callbacks

    def _measure(self, step: int) -> Score:
        """A validation on the sample; the model as it is then replaces the one in the folder."""
        score = self.validate(evenly(self.windows, SAMPLE_WINDOWS))
        self.schedule.aside += score.seconds
        self.window_seconds = score.seconds / min(SAMPLE_WINDOWS, len(self.windows))
        self.folder.measure(step=step, **score.to_dict())
        if not math.isfinite(score.bits):
            raise TrainingError(f"the validation loss is {score.bits} after step {step}; the model is not saved")
        if step:
            self.model.save_pretrained(self.folder.path)
            at = clock(self.schedule.elapsed())
            self.display.say(f"step {step:>6,}  {score.bits:6.3f} bits/byte on a validation sample, after {at}")
        return score
