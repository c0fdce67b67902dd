"""`train`: from options to a run folder; what comes before the first step, in its order."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import time
from pathlib import Path
from typing import Any

# Nothing here needs the hub; without this, an import may look for it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from ..core.threads import use_threads
from ..heads.files import CONFIG, read_config
from ..heads.quantization import parameter_count
from ..heads.saving import read_weights
from .callbacks import Signals
from .checkpoints import CheckpointError, Checkpoints, way_back
from .display import PlainDisplay, make_display, nowhere
from .estimate import check_memory, dry_run
from .further import EXTENDED, describe_extension, extend, last_extension, longer
from .integrity import check_files, read_progress
from .options import TrainOptions
from .plan import Plan, plan_run
from .precision import computes
from .problems import classification, language, sequence_to_sequence
from .problems.problem import Problem
from .problems.setup import Progress, describe, read_rows
from .processes import said_by_first, wait_for_all
from .resume import check_data, check_unchanged, innermost, saved_facts
from .run import Run, TrainResult
from .run_folder import RunFolder


def train(options: TrainOptions, display: PlainDisplay | None = None) -> TrainResult | None:
    """Train one model and leave it in its run folder; with `resume`, go on with one. None after `dry_run` and `find_lr`.

    `TrainOptions(resume=folder)` alone takes everything else from the run.

    Raises:
        ValueError: for options, data or a run folder that cannot be used; nothing has been written then.
        TrainingError: the loss became infinite or NaN, or the disk is full. What the folder then holds is in the message.
    """
    return carry_out(plan_run(options), display)


def carry_out(
    plan: Plan,
    display: PlainDisplay | None = None,
    *,
    problem: Problem | None = None,
    training_seconds: float | None = None,
) -> TrainResult | None:
    """The same of a run that has been decided.

    Args:
        problem: what to learn, in place of what the options state: for data that are there already, and models that no option names.
        training_seconds: ends the training after so many seconds of it, whatever validations take; in place of the budget.
    """
    started = time.monotonic()
    options, began = plan.options, plan.began
    if display is None:
        display = make_display(quiet=options.quiet, as_json=options.json) if plan.is_first else PlainDisplay(nowhere())
    use_threads(options.threads)
    folder = _folder(plan)
    facts = {} if began is None else saved_facts(folder.path)
    further = None if began is None or not folder.finished() else longer(began, options)
    options = options if further is None else further
    if problem is None:
        display.waiting("reading the data")
        options, problem = prepare(options, display.reading)
    display.waiting("estimating time and memory" if options.dry_run else "estimating memory")
    if began is not None:
        before = began if began.context else dataclasses.replace(began, context=options.context)
        check_unchanged(before, options, further=further is not None)
        check_data(facts, problem.facts, options.data)
    check_memory(problem, options)
    _check_fit(problem, options, plan.processes)
    if options.dry_run or options.find_lr:
        display.say(f"data        {problem.text}")
    if options.dry_run:
        dry_run(problem, options, display)
        return None
    if options.find_lr:
        from .find_lr import find_lr

        find_lr(problem, options, folder, display)
        return None
    plan = dataclasses.replace(plan, options=options, folder=folder)
    return _run(plan, problem, display, started, further=further is not None, training_seconds=training_seconds)


def _folder(plan: Plan) -> RunFolder:
    """The run folder, the same on every process."""
    folder, options = plan.folder, plan.options
    if plan.processes == 1 or options.resume is not None or (options.dry_run and options.out is not None):
        return folder
    path = Path(said_by_first(str(folder.path)))
    return folder if plan.is_first else RunFolder(path, writes=False)


def _check_fit(problem: Problem, options: TrainOptions, processes: int) -> None:
    """Raises ValueError where a step would need more than there is."""
    batch = (options.batch_size or 1) * processes
    if (options.accumulation - 1) * batch >= len(problem.train):
        batches, items = f"{options.accumulation:,} batches of {batch:,}", f"{len(problem.train):,} items of the training data"
        raise ValueError(f"accumulation: {batches} are more than the {items}, which end a step: give a smaller one")


def prepare(options: TrainOptions, progress: Progress = None) -> tuple[TrainOptions, Problem]:
    """The problem that resolved options state, and the options with what only the data could tell.

    Raises:
        ValueError: data that cannot be used.
    """
    options, data = read_data(options, progress)
    return options, state_problem(options, data)


def read_data(options: TrainOptions, progress: Progress = None) -> tuple[TrainOptions, Any]:
    """A corpus, rows, or of a synthetic task None; and the options, with `context` set to the longest row.

    Raises:
        ValueError: data that cannot be used.
    """
    if options.task is not None:
        return options, None
    return (options, language.read_corpus(options, progress)) if options.kind == "language" else read_rows(options)


def state_problem(options: TrainOptions, data: Any) -> Problem:
    """The problem of learning what `read_data` gave with the model that the options name.

    Raises:
        ValueError: too little data, or a model that cannot learn it.
    """
    if options.kind == "sequence_to_sequence":
        return sequence_to_sequence.rows_problem(options, data)
    if options.kind == "classification":
        return classification.task_problem(options) if data is None else classification.rows_problem(options, data)
    return language.task_problem(options) if data is None else language.text_problem(options, data)


def _run(
    plan: Plan, problem: Problem, display: PlainDisplay, started: float, *, further: bool, training_seconds: float | None
) -> TrainResult | None:
    options, folder, resuming = plan.options, plan.folder, plan.began is not None
    with contextlib.ExitStack() as claims:
        if resuming:
            claims.enter_context(folder.claimed())
            if further:
                if plan.processes > 1:
                    wait_for_all()  # each process has read what the run was before the first changes it
                extend(folder, options, folder.read_facts())
            elif folder.finished():
                longer_one = "to train it further, give a larger --max_steps or --budget, which count from its beginning"
                display.say(f"finished    the run in {folder.path} is complete; {longer_one}")
                return None
        display.waiting("building the model")
        torch.manual_seed(options.seed)
        model = problem.build()
        checkpoint = newest_checkpoint(folder) if resuming else None
        progress: dict[str, Any] = {}
        if checkpoint is not None:
            progress = read_progress(checkpoint)
            try:
                load_weights(model, checkpoint, what="resume")
            except CheckpointError as error:
                raise CheckpointError(f"{error}; {way_back(checkpoint)}") from error
            check_files(checkpoint, progress, processes=plan.processes)
        elif options.weights is not None:
            load_weights(model, Path(options.weights), what="weights")
        if not resuming:  # only now is it sure that nothing will be refused
            claims.enter_context(folder.made(overwrite=options.overwrite))
        run = Run(options, problem, model, folder, display, training_seconds=training_seconds)
        return _train(run, started, checkpoint, progress, resuming=resuming)


def _train(run: Run, started: float, checkpoint: Path | None, progress: dict[str, Any], *, resuming: bool) -> TrainResult:
    options, problem, model, folder, display = run.options, run.problem, run.model, run.folder, run.display
    before = folder.read_facts() if resuming else {}
    extension = last_extension(before)
    if checkpoint is not None:
        run.restore(checkpoint, progress, extension)
    facts = describe(options, parameter_count(model), problem.facts)
    facts["class"] = type(model).__name__
    facts["machine"]["computes"] = computed = computes(options.precision)
    if checkpoint is None:
        folder.open(options, facts)
    else:
        facts |= {name: before[name] for name in ("started", EXTENDED) if name in before}
    told = {name: facts[name] for name in ("model", "parameters", "class")}
    data = {"kind": problem.kind, "data": problem.text, "digest": problem.digest}
    size = f"{facts['parameters'] / 1e6:.2f} M parameters"
    lines = [f"computes    {computed}", f"data        {problem.text}", f"model       {options.model}, {size}, in {folder.path}"]
    display.report("start", "\n".join(lines), folder=str(folder.path), step=progress.get("step", 0), computes=computed, **told, **data)
    if extension is not None and extension.begins(progress):
        display.say(f"going on    {describe_extension(options, extension)}")
    elif resuming:
        where = "from its beginning: it had no checkpoint yet" if checkpoint is None else f"after step {run.progress['step']:,}"
        display.say(f"going on    {where}")
    with Signals() as signals:
        steps = run.fit(signals, started, checkpoint)
        signals.at_once = True  # the checkpoint of the last step is there: whoever goes on from it measures again
        return run.finish(facts, steps, signals.received)


def newest_checkpoint(folder: RunFolder) -> Path | None:
    """Where a run goes on; None where it begins again, because it was stopped before its first checkpoint.

    Raises:
        CheckpointError: it is damaged; or there is none any more, and to begin again would replace a model by a lesser one.
    """
    newest = Checkpoints(folder.path).newest()
    if newest is None and (folder.path / "model.safetensors").exists() and (folder.result() is not None or folder.validations() > 1):
        where = shlex.quote(str(folder.path))
        raise CheckpointError(
            f"resume: {folder.path} has a model but no checkpoint any more: start from its model with --weights {where} "
            f"and another --out, or begin again with --config {shlex.quote(str(folder.path / 'run.yaml'))} --out {where} --overwrite"
        )
    return newest


def load_weights(model: Any, folder: Path, *, what: str) -> None:
    """The weights in a saved model's folder, into a model of the same configuration.

    Raises:
        CheckpointError: another model, or damaged files; `what` is the option that named the folder.
    """
    try:
        content = read_config(folder)
        ours = {"class": type(model).__name__, **model.options()}
        for name in [*ours, *content]:
            if name == "labels" and name not in content:  # saved without the names of its classes
                continue
            if content.get(name) != ours.get(name):
                key, before, now = innermost(name, content.get(name), ours.get(name))
                raise ValueError(f"the model in {folder / CONFIG} has {key}={before!r}, the one asked for {now!r}")
        model.load_state_dict(read_weights(folder), strict=True)
    except (ValueError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{what}: {error}") from error
