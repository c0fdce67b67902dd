"""The parts of a comparison that take the time: learning rates, runs, and what the trained models are asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from .comparing import Comparing
from .folder import run_folder
from .results import Cut, Entry, Point, Rate, Span, Trial
from .search import best_rate, next_rate
from .workers import WorkError

HOPELESS = "not run: seed {seed} ended without a result"


def search_rates(made: Comparing, entry: Entry) -> None:
    """The rate with the lowest training loss of as many as are tried for each entry."""
    if entry.rate is not None:
        return
    usual = made.comparison.settings["default_rates"][entry.name]
    if made.options.rates == 1:
        entry.rate = usual
        return
    while len(entry.rates) < made.options.rates:
        _try_rate(made, entry, next_rate(usual, {rate.rate: rate.score for rate in entry.rates}))
    entry.rate = best_rate({rate.rate: rate.score for rate in entry.rates})
    if entry.rate is None:
        errors = made.comparison.settings.get("rate_errors", {}).get(entry.name, "the loss became infinite or NaN")
        entry.skipped = f"none of the learning rates tried gave a finite loss: {errors}"
        made.display.report("left_out", f"left out    {entry.name}: {entry.skipped}", entry=entry.name, why=entry.skipped)
    else:
        shown = ", ".join(f"{rate.rate:.2g}: {'diverged' if rate.score is None else format(rate.score, '.3f')}" for rate in entry.rates)
        rates = [dataclasses.asdict(rate) for rate in entry.rates]
        text = f"rates       {entry.name}: {shown} nats in training; taken {entry.rate:.2g}"
        made.display.report("rates", text, entry=entry.name, rates=rates, taken=entry.rate)
    made.keep()


def _try_rate(made: Comparing, entry: Entry, rate: float) -> None:
    conditions = made.comparison.settings["conditions"]
    steps = None if conditions["rate_steps"] is None else conditions["rate_steps"].get(entry.name)
    try:
        found = made.ask(
            f"{entry.name}, learning rate {rate:.2g}", "rate",
            entry=dataclasses.asdict(entry), rate=rate, seconds=conditions["rate_seconds"], steps=steps,
        )  # fmt: skip
    except WorkError as error:
        made.comparison.settings.setdefault("rate_errors", {})[entry.name] = str(error)
        found = {"score": None, "steps": 0, "seconds": 0.0}
    entry.rates.append(Rate(rate=rate, **found))


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
    entry, conditions = made.comparison.entry(trial.entry), made.comparison.settings["conditions"]
    lost = next((other for other in made.comparison.trials if other.entry == entry.name and other.status == "failed"), None)
    if lost is not None and lost.error.startswith("its process"):  # out of memory: it would be again
        trial.status, trial.error = "failed", HOPELESS.format(seed=lost.seed)
        return
    number = 1 + sum(other.status != "waiting" for other in made.comparison.trials)
    what = f"run {number} of {len(made.comparison.trials)}: {entry.name}, seed {trial.seed}"
    try:
        found = made.ask(
            what, "train", entry=dataclasses.asdict(entry), seed=trial.seed, rate=entry.rate, folder=str(made.folder / trial.folder),
            seconds=conditions["run_seconds"], steps=None if conditions["run_steps"] is None else _steps(made, entry),
            items=conditions["items"], sample=conditions["sample_items"],
        )  # fmt: skip
    except WorkError as error:
        trial.status, trial.error = "failed", str(error)
        text = f"failed      {entry.name}, seed {trial.seed}: {error}"
        made.display.report("failed", text, entry=entry.name, seed=trial.seed, why=str(error))
    else:
        found["curve"] = [Point(**point) for point in found["curve"]]
        for name, value in found.items():
            setattr(trial, name, value)
        trial.status = "done"
        value = made.display.value(trial.value, made.comparison.unit)
        text = f"run         {number} of {len(made.comparison.trials)}: {entry.name}, seed {trial.seed}: {value}"
        made.display.report("run", text, **dataclasses.asdict(trial))
    made.keep()


def _steps(made: Comparing, entry: Entry) -> int:
    """Of a run, where not time is equal; of an entry that was added later, from what the others get."""
    settings = made.comparison.settings
    steps: dict[str, int] = settings["conditions"]["run_steps"]
    if entry.name not in steps:
        name, count = next(iter(steps.items()))
        per_flop = made.comparison.entry(name).flops_per_token / entry.flops_per_token if made.options.equal == "flops" else 1.0
        steps[entry.name] = max(1, round(count * per_flop))
    return steps[entry.name]


def examine(made: Comparing, trial: Trial) -> None:
    """Loss by position, with the context cut, and a sample of text."""
    assert made.folder is not None
    entry = made.comparison.entry(trial.entry)
    try:
        found = made.ask(
            f"examining {entry.name}, seed {trial.seed}", "examine", entry=dataclasses.asdict(entry),
            folder=str(made.folder / trial.folder), seconds=made.comparison.settings["conditions"]["examine_seconds"], seed=trial.seed,
        )  # fmt: skip
    except WorkError as error:
        made.comparison.settings.setdefault("not_examined", {})[f"{trial.entry} {trial.seed}"] = str(error)
    else:
        trial.positions = [Span(**span) for span in found["positions"]]
        trial.cuts = [Cut(**cut) for cut in found["cuts"]]
        trial.sample = found["sample"]
        made.comparison.settings.setdefault("examined", []).append(f"{trial.entry} {trial.seed}")
    made.keep()


def is_examined(made: Comparing, trial: Trial) -> bool:
    settings, name = made.comparison.settings, f"{trial.entry} {trial.seed}"
    return name in settings.get("examined", []) or name in settings.get("not_examined", {})
