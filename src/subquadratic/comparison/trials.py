"""The parts of a comparison that take the time: learning rates, runs, and what the trained models are asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from .comparing import Comparing
from .conditions import TARGETS, WINDOWS, seconds_of, steps_of
from .folder import run_folder
from .recording import so_far
from .remaining import run_seconds
from .results import Cut, Entry, Point, Rate, Span, Trial
from .search import at_the_end, best_rate, next_rate
from .workers import WorkError

HOPELESS = "not run: seed {seed} ended without a result"
BUSY = 0.1  # of a run's time spent waiting for a processor, above which equal time is not equal
DIVERGED = "the loss became infinite or NaN"


def search_rates(made: Comparing, entry: Entry) -> None:
    """The rate with the lowest training loss of as many as are tried for each entry."""
    if entry.rate is not None:
        return
    usual = made.comparison.settings["default_rates"][entry.name]
    if made.options.rates == 1:
        entry.rate = usual
        return
    while len(entry.rates) < made.options.rates and not (entry.rates and entry.rates[-1].error):
        entry.rates.append(_tried(made, entry, next_rate(usual, {rate.rate: rate.score for rate in entry.rates})))
    scores = {rate.rate: rate.score for rate in entry.rates}
    entry.rate = best_rate(scores)
    if entry.rate is None:
        failed = next((rate for rate in entry.rates if rate.error), None)
        tried = ", ".join(f"{rate:.2g}" for rate in scores)
        entry.skipped = f"{DIVERGED} at every learning rate tried ({tried})" if failed is None else f"failed in training: {failed.error}"
        made.display.report("left_out", f"left out    {entry.name}: {entry.skipped}", entry=entry.name, why=entry.skipped)
    else:
        shown = ", ".join(f"{rate.rate:.2g}: {_said(rate)}" for rate in entry.rates)
        end = at_the_end(scores)
        beyond = f", the {end} tried: a better one may lie beyond (more --rates would tell)" if end else ""
        text = f"rates       {entry.name}: {shown} nats in training; taken {entry.rate:.2g}{beyond}"
        rates = [dataclasses.asdict(rate) for rate in entry.rates]
        made.display.report("rates", text, entry=entry.name, rates=rates, taken=entry.rate)
    made.keep()


def _said(rate: Rate) -> str:
    return "failed" if rate.error else "diverged" if rate.score is None else format(rate.score, ".3f")


def _tried(made: Comparing, entry: Entry, rate: float) -> Rate:
    """A rate and what it came to. Diverged is only what gave a loss that is not finite; what was raised is kept as it was said."""
    comparison = made.comparison
    try:
        found = made.ask(
            f"{entry.name}, learning rate {rate:.2g}", "rate", takes=seconds_of(comparison, entry, "rate"),
            entry=dataclasses.asdict(entry), rate=rate, seconds=comparison.settings["conditions"]["rate_seconds"],
            steps=steps_of(comparison, entry, "rate"),
        )  # fmt: skip
    except WorkError as error:
        return Rate(rate=rate, score=None, steps=0, seconds=0.0, error=str(error))
    return Rate(rate=rate, **found)


def waiting_trials(made: Comparing) -> Iterator[Trial]:
    """Seed after seed, so that what there is when time is short is of all entries."""
    known = {(trial.entry, trial.seed) for trial in made.comparison.trials}
    for seed in range(made.options.seeds):
        for entry in made.taking_part():
            if (entry.name, seed) not in known:
                made.comparison.trials.append(Trial(entry=entry.name, seed=seed, folder=run_folder(entry.name, seed)))
    return iter([trial for trial in made.comparison.trials if trial.status == "waiting"])


def train(made: Comparing, trial: Trial) -> None:
    assert made.folder is not None
    comparison, folder = made.comparison, made.folder / trial.folder
    entry, conditions = comparison.entry(trial.entry), comparison.settings["conditions"]
    lost = next((other for other in comparison.trials if other.entry == entry.name and other.status == "failed"), None)
    if lost is not None and lost.error.startswith("its process"):  # out of memory: it would be again
        trial.status, trial.error = "failed", HOPELESS.format(seed=lost.seed)
        return
    number = 1 + sum(other.status != "waiting" for other in comparison.trials)
    try:
        found = made.ask(
            f"run {number} of {len(comparison.trials)}: {entry.name}, seed {trial.seed}", "train", takes=run_seconds(comparison, entry),
            entry=dataclasses.asdict(entry), seed=trial.seed, rate=entry.rate, folder=str(folder),
            seconds=conditions["run_seconds"], steps=steps_of(comparison, entry),
            items=conditions["items"], sample=conditions["sample_items"],
        )  # fmt: skip
    except WorkError as error:
        trial.status, trial.error = "failed", str(error)
        per_step, flops = comparison.settings["tokens_per_step"], entry.flops_per_token
        _fill(trial, so_far(folder, unit=comparison.unit, tokens_per_step=per_step, flops_per_token=flops))
        text = f"failed      {entry.name}, seed {trial.seed}: {error}"
        made.display.report("failed", text, entry=entry.name, seed=trial.seed, why=str(error))
    else:
        _fill(trial, found)
        trial.status = "done"
        value = made.display.value(trial.value, comparison.unit)
        text = f"run         {number} of {len(comparison.trials)}: {entry.name}, seed {trial.seed}: {value}"
        made.display.report("run", text, **dataclasses.asdict(trial))
        _note_busy(made, trial)
    made.keep()


def _fill(trial: Trial, found: dict[str, object]) -> None:
    for name, value in found.items():
        setattr(trial, name, [Point(**point) for point in value] if name == "curve" else value)  # type: ignore[attr-defined]


def _note_busy(made: Comparing, trial: Trial) -> None:
    """Say where others had the processor: seconds are then no equal share of it."""
    if trial.waited is not None and trial.waited > BUSY:
        unequal = "; seconds are not equal time then, --equal tokens or flops are" if made.options.equal == "time" else ""
        text = f"note        it waited {trial.waited:.0%} of its time for a processor that other programs had{unequal}"
        made.display.report("note", text, entry=trial.entry, seed=trial.seed, waited=trial.waited)


def examine(made: Comparing, trial: Trial) -> None:
    """Loss by position, with the context cut, and a sample of text."""
    assert made.folder is not None
    entry, conditions = made.comparison.entry(trial.entry), made.comparison.settings["conditions"]
    try:
        found = made.ask(
            f"examining {entry.name}, seed {trial.seed}", "examine", takes=conditions["examine_seconds"],
            entry=dataclasses.asdict(entry), folder=str(made.folder / trial.folder), seed=trial.seed,
            windows=conditions.get("examine_windows", WINDOWS), targets=conditions.get("examine_targets", TARGETS),
        )  # fmt: skip
    except WorkError as error:
        made.comparison.settings.setdefault("not_examined", {})[f"{trial.entry} {trial.seed}"] = str(error)
        text = f"note        {trial.entry}, seed {trial.seed}, could not be examined: {error}"
        made.display.report("note", text, entry=trial.entry, seed=trial.seed, why=str(error))
    else:
        trial.positions = [Span(**span) for span in found["positions"]]
        trial.cuts = [Cut(**cut) for cut in found["cuts"]]
        trial.sample = found["sample"]
        made.comparison.settings.setdefault("examined", []).append(f"{trial.entry} {trial.seed}")
    made.keep()


def is_examined(made: Comparing, trial: Trial) -> bool:
    settings, name = made.comparison.settings, f"{trial.entry} {trial.seed}"
    return name in settings.get("examined", []) or name in settings.get("not_examined", {})
