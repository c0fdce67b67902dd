"""One run from its first step to its last: training, validations, checkpoints, the end."""

from __future__ import annotations

import contextlib
import math
import re
import shlex
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback

from ..core.schedule import Schedule
from ..heads.saving import read_tensors
from .callbacks import Average, Milestones, RedrawFeatures, Signals, Stop, TrainingError, Watch
from .checkpoints import AVERAGE, Checkpoints
from .display import PlainDisplay, clock
from .failures import explaining, what_is_kept
from .further import Extension
from .hugging_face import SubquadraticTrainer
from .integrity import check_run, why_no_model, write_progress
from .options import TrainOptions
from .page import run_page
from .plots import plot_run
from .problems.problem import Problem, Score, evenly, spread, validate
from .problems.setup import now
from .run_folder import RunFolder

FINAL_SHARE = 0.1  # of a time budget, for the validation at the end
ENDING_SHARE = 0.03  # of a time budget, for a sample and writing


@dataclass(frozen=True)
class TrainResult:
    """What came out: the folder, the best model, the steps taken, its score on the validation data, a sample, and the number of the
    signal that ended the run early, else None."""

    folder: RunFolder
    model: Any
    steps: int
    score: Score
    sample: str
    signal: int | None


class Run:
    """The parts of a run that training and its end share.

    `best` is the best validation so far, as {"step", "loss"}; `stale` how many came after it.
    """

    def __init__(
        self,
        options: TrainOptions,
        problem: Problem,
        model: Any,
        folder: RunFolder,
        display: PlainDisplay,
        *,
        training_seconds: float | None = None,
    ) -> None:
        self.options, self.problem, self.model, self.folder, self.display = options, problem, model, folder, display
        display.unit = problem.bits[1]
        self.schedule = Schedule(
            max_steps=options.max_steps,
            seconds=options.seconds() if training_seconds is None else training_seconds,
            warmup=options.warmup,
            shape=options.schedule,
            apart=training_seconds is not None,
        )
        self.training_seconds = training_seconds
        self.checkpoints = Checkpoints(folder.path)
        averaging = None if options.ema is None else get_ema_multi_avg_fn(options.ema)
        self.average = None if averaging is None else AveragedModel(model, multi_avg_fn=averaging)
        self.best: dict[str, Any] | None = None
        self.stale = 0
        self.started = time.monotonic()
        self.window_seconds = 0.0  # that a validation took for an item
        self.items: Any = problem.validation
        wanted = options.validation_tokens
        self.final_items = len(self.items) if wanted is None else min(len(self.items), math.ceil(wanted / problem.tokens))
        self.validate = partial(validate, problem, batch_size=options.batch_size or 1, seed=options.seed)
        self.progress: dict[str, Any] = {}  # of the checkpoint that the run goes on from
        self.begins = False  # a new schedule, though there is one

    @property
    def measured(self) -> Any:
        """The model that is validated, sampled and saved: the moving average, if there is one."""
        return self.model if self.average is None else self.average.module

    def fit(self, signals: Signals, started: float, checkpoint: Path | None) -> int:
        """Train until the schedule, `--patience` or a signal ends it; the number of optimizer steps taken in all."""
        options, problem = self.options, self.problem
        self.started = started - self.progress.get("run_seconds", 0.0)
        trainer = SubquadraticTrainer(
            problem, self.model, options, schedule=self.schedule, checkpoints=self.checkpoints, output_dir=str(self.folder.path)
        )
        self.device = trainer.args.device
        if self.average is not None:
            self.average.to(self.device)
        self._add_callbacks(trainer, signals)
        with self._explaining():
            if checkpoint is None:
                self.display.waiting("measuring before the first step")
                self._measure(0)
            self._start_clock()
            self.display.waiting("first step")
            step = self.progress.get("step", 0)
            if step and (self.schedule.progress(step) >= 1 or self._out_of_patience()):  # the Trainer would take one more
                return step
            try:
                return trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint)).global_step
            finally:
                self.display.close()

    def finish(self, facts: dict[str, Any], steps: int, signal: int | None) -> TrainResult:
        """Measure the best model on the whole validation data (a sample where a signal hurries us), write everything, and say so."""
        seconds = self.schedule.elapsed()
        with self._explaining():
            # A run that goes on later goes on from its checkpoint, and must find the best model that this one knows of.
            if self.best is None or (signal is None and self.best["step"] != steps):
                self._keep_best(self._measure(steps, sample=False), steps)
            assert self.best is not None
            model = self.measured if self.best["step"] == steps else self._best_model()
            count = self.problem.sample_items if signal is not None else self.final_items
            chosen = evenly(self.items, count)
            score = self.validate(model, spread(chosen), deadline=math.inf if self.deadline is None else self.deadline)
            self.folder.measure(step=self.best["step"], final=True, **score.to_dict())
            result = {"steps": steps, "best_step": self.best["step"], "train_seconds": round(seconds, 1), "interrupted": signal is not None}
            references = self.problem.references()
            facts = {**facts, "result": {**result, **score.to_dict(), **references}, "finished": now()}
            self._say_result(references, score, steps, signal)
            sample = "" if signal is not None else self.problem.sample(model, self.options.seed)
            if sample:
                self.folder.add_sample(steps, sample)
                self.display.report("sample", f"sample      {'-' * 60}\n{sample}\n{'-' * 72}", step=steps, sample=sample)
            if self.folder.writes:
                title = f"{self.options.model}, {facts['parameters'] / 1e6:.2f} M parameters"
                plot_run(
                    self.folder.path / "loss.svg",
                    self.folder.measurements(),
                    factor=self.problem.bits[0],
                    unit=self.problem.bits[1],
                    references=self._references(references),
                    title=title,
                )
                self.folder.write_page(run_page(self.folder, self.options, self.problem, facts))
            self.folder.write_facts(facts)  # last: who finds the result there finds the run complete
        self.display.report("result", folder=str(self.folder.path), **facts["result"])
        where = shlex.quote(str(self.folder.path))
        following = f"subq train --resume {where}" if signal is not None else self.problem.closing(where)
        self.display.say(f"continue    {following}")
        return TrainResult(self.folder, model, steps, score, sample, signal)

    def _references(self, found: dict[str, float]) -> dict[str, float]:
        """What the losses are drawn beside, by name, in the unit of the drawing."""
        end = "_bits_per_byte" if self.problem.bits[1] == "bits/byte" else "_bits_per_token"  # of numbers, a value is a token
        named = {name.removesuffix(end): value for name, value in found.items() if name.endswith(end)}
        return {"uniform guess": self.problem.uniform * self.problem.bits[0], **named}

    def restore(self, checkpoint: Path, progress: dict[str, Any], extension: Extension | None = None) -> None:
        """Take up what a checkpoint holds besides what the Trainer reads; `extension` is where the run went on after its end.

        Raises:
            CheckpointError: a file of the run that the checkpoint counts on is damaged.
        """
        notes = check_run(self.folder.path, progress)
        self.progress, self.best, self.stale = progress, progress["best"], progress["stale"]
        noted, sizes = self.folder.noted_best(), progress["sizes"]
        if extension is not None:
            self.schedule.first_step, self.schedule.first_elapsed = extension.step, extension.elapsed
        self.begins = extension is not None and extension.begins(progress)
        if extension is not None and self.begins:
            self.stale, sizes = 0, extension.sizes
            if noted and noted["step"] <= extension.step:  # measured after the last checkpoint was written
                self.best = noted
        if why_no_model(self.folder.path) is not None or (self.best and noted and noted["step"] != self.best["step"]):
            self.best = None  # deleted, or of a later step: the run was stopped after that was saved and before its checkpoint was
        self.folder.reopen(sizes)
        if self.average is not None:
            self.average.module.load_state_dict(read_tensors(checkpoint / AVERAGE), strict=True)
            self.average.n_averaged.fill_(progress["averaged"])
        for note in notes:
            self.display.say(f"note        {note}")

    def _add_callbacks(self, trainer: SubquadraticTrainer, signals: Signals) -> None:
        options, problem = self.options, self.problem
        tokens = problem.tokens * (options.batch_size or 1) * options.accumulation * trainer.args.world_size
        self.watch = Watch(trainer, self.folder, self.display, tokens_per_step=tokens, bits=problem.bits[0])
        self.watch.losses = list(self.progress.get("losses", []))
        milestones = Milestones(
            self._milestone, self.watch, self.schedule, count=options.evaluations, save_every=options.save_every
        )
        if not self.begins:
            milestones.marks = list(self.progress.get("marks", milestones.marks))
        trainer.write_more = lambda folder: self._write_progress(folder, milestones.marks)
        interval = getattr(getattr(self.model, "config", None), "redraw_interval", None)
        callbacks: list[TrainerCallback | None] = [
            None if interval is None else RedrawFeatures(self.model, interval=interval, seed=options.seed),
            None if self.average is None else Average(self.model, self.average),
            self.watch,
            milestones,
            Stop(self.schedule, signals, self.watch),
        ]
        for callback in callbacks:
            if callback is not None:
                trainer.add_callback(callback)
        self.trainer = trainer

    def _start_clock(self) -> None:
        seconds, before = self.options.seconds() if self.training_seconds is None else None, self.progress
        self.deadline = None if seconds is None else self.started + seconds * (1 - ENDING_SHARE)
        if before and not self.begins:
            self.schedule.start(before["train_seconds"], elapsed=before["elapsed"], aside=before["aside"])
            return
        elapsed, aside = before.get("elapsed", 0.0), before.get("aside", 0.0)
        if seconds is not None and self.deadline is not None:
            final = min(seconds * FINAL_SHARE, self.final_items * (self.window_seconds or before.get("window_seconds", 0.0)))
            seconds = elapsed + max(self.deadline - final - time.monotonic(), 1e-3)
        elif self.training_seconds is not None:
            seconds = self.training_seconds
        self.schedule.start(seconds, elapsed=elapsed, aside=aside)

    def _write_progress(self, folder: Path, marks: list[float]) -> None:
        from safetensors.torch import save_file

        if self.average is not None:
            save_file({name: tensor.contiguous() for name, tensor in self.average.module.state_dict().items()}, folder / AVERAGE)
        write_progress(
            folder,
            {
                "step": self.trainer.state.global_step,
                "run_seconds": time.monotonic() - self.started,
                "train_seconds": self.schedule.seconds,
                "elapsed": self.schedule.elapsed(),
                "aside": self.schedule.aside,
                "window_seconds": self.window_seconds,
                "sizes": self.folder.sizes(),
                "marks": marks,
                "losses": self.watch.losses,
                "best": self.best,
                "stale": self.stale,
                "averaged": 0 if self.average is None else int(self.average.n_averaged),
            },
        )

    def _milestone(self, step: int) -> bool:
        """A validation, its sample of text, and the model if it is the best; whether to go on."""
        score = self._measure(step)
        began = time.monotonic()
        self._keep_best(score, step)
        self.schedule.aside += time.monotonic() - began
        return not self._out_of_patience()

    def _out_of_patience(self) -> bool:
        return self.options.patience is not None and self.stale >= self.options.patience

    def _keep_best(self, score: Score, step: int) -> None:
        if self.best is not None and score.loss >= self.best["loss"]:
            self.stale += 1
            return
        best = {"step": step, "loss": score.loss}
        if self.folder.writes:
            self.folder.path.stat()  # raises where it was deleted; `save_pretrained` would make it again
            self.problem.save_extra(self.folder.path)  # first: without its tokenizer a model would be taken for one of bytes
            self.measured.save_pretrained(self.folder.path)
        self.best, self.stale = best, 0  # only now: a failure before leaves the best model before
        self.folder.note_best(best)

    def _best_model(self) -> Any:
        best = type(self.model).from_pretrained(self.folder.path)
        return best.to(self.device)

    def _measure(self, step: int, *, sample: bool = True) -> Score:
        """A validation on a sample of the items, and something to look at; neither counts as training time."""
        started = time.monotonic()
        score = self.validate(self.measured, evenly(self.items, self.problem.sample_items))
        self.window_seconds = score.seconds / min(self.problem.sample_items, len(self.items))
        self.folder.measure(step=step, **score.to_dict())
        if not math.isfinite(score.loss):
            raise TrainingError(f"the validation loss is {score.loss} at step {step:,}")
        after = clock(self.schedule.elapsed())
        line = f"step {step:>6,}  {self.problem.headline(score)} in a validation sample, after {after}"
        self.display.report("validation", line if step and sample else None, step=step, **score.to_dict())
        if step and sample:
            text = self.problem.sample(self.measured, self.options.seed) if self.folder.writes else ""
            if text:
                self.folder.add_sample(step, text)
                self.display.report("sample", f"            {_one_line(text)}", step=step, sample=text)
            if self.options.trackers():
                self.trainer.log({key: float(value) for key, value in score.to_dict().items()})
        self.schedule.aside += time.monotonic() - started
        return score

    def _say_result(self, references: dict[str, float], score: Score, steps: int, signal: int | None) -> None:
        if signal is not None:
            self.display.say(f"stopped     by signal {signal} after step {steps:,}; {what_is_kept(self.folder.path, self.best)}")
        if self.best is not None and self.best["step"] != steps:
            self.display.say(f"best        step {self.best['step']:,} of {steps:,}: its model is the one in the folder")
        part = "all" if score.items >= len(self.items) else f"{score.items / len(self.items):.0%}"
        names = {name: re.sub("_(bits_per_byte|bits_per_token|accuracy)$", "", name).replace("_", " ") for name in references}
        words = ", ".join(f"{names[name]} {value:.2f}" for name, value in references.items())
        comparison = f"; for comparison {words}" if words else ""
        self.display.say(f"validation  {self.problem.headline(score)} ({part} of the validation data{comparison})")

    def _explaining(self) -> contextlib.AbstractContextManager[None]:
        return explaining(self.folder.path, lambda: self.best, self.display.say)


def _one_line(text: str, width: int = 100) -> str:
    """The end of a sample, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
