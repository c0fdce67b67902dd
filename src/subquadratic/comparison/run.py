"""A comparison from its first question to its last: what is asked of workers, in which order, and what is kept after each answer."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..training.defaults import MODELS
from .conditions import Probe, divide
from .display import Display
from .folder import LOG, run_folder
from .options import CompareOptions, foreign, foreign_model, ours, target_parameters
from .results import NAME, Comparison, Cut, Entry, Point, Rate, Span, Trial, save
from .search import best_rate, next_rate
from .workers import WorkError, Workers

PARAMETERS = 1_000_000
HOPELESS = "not run: seed {seed} ended without a result"


class Comparing:
    """One comparison, being made or gone on with.

    Args:
        options: checked.
        folder: its own; None: nothing is written, as for `--dry_run`.
        comparison: what there is of it already; None: nothing.
        after: called with the comparison and its folder whenever something was added, to draw the page.
    """

    def __init__(
        self,
        options: CompareOptions,
        folder: Path | None,
        display: Display,
        *,
        comparison: Comparison | None = None,
        command: list[str] | None = None,
        after: Callable[[Comparison, Path], None] = lambda comparison, folder: None,
    ) -> None:
        self.options, self.folder, self.display, self.after = options, folder, display, after
        self.workers = Workers(options, None if folder is None else folder / LOG)
        self.began = time.monotonic()
        self.foreign = {model.name: model for model in foreign(options)}
        if comparison is None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            settings = {"options": dataclasses.asdict(options), "length": options.length, "equal": options.equal, "seeds": options.seeds}
            comparison = Comparison(settings=settings, machine={}, data={}, unit="", command=command or [], started=now)
        comparison.settings["options"] = dataclasses.asdict(options)  # with models that were added
        comparison.interrupted = True
        self.comparison = comparison
        self._before = comparison.seconds
        known = {entry.name for entry in comparison.entries}
        for name in [*ours(options), *self.foreign]:
            if name not in known:
                model = self.foreign.get(name)
                comparison.entries.append(Entry(name=name, source="ours" if model is None else model.source))

    def run(self) -> Comparison:
        """Everything that is not there yet.

        Raises:
            ValueError: the data cannot be used, or the time is too short.
            WorkError: the data could not be read.
        """
        with self._closing():
            self.prepare()
            for entry in self._taking_part():
                self._search(entry)
            for trial in self._trials():
                self._train(trial)
            for trial in [trial for trial in self.comparison.trials if trial.status == "done" and not self._examined(trial)]:
                self._examine(trial)
            self._measure_speed()
            self.comparison.interrupted = False
            self.keep()
        return self.comparison

    def dry_run(self) -> None:
        """Says what `run` would do; trains nothing."""
        with self._closing():
            self.prepare()
            conditions = self.comparison.settings["conditions"]
            runs = len(self._taking_part()) * self.options.seeds
            items = f"{conditions['items']:,} of {self.comparison.data['validation_items']:,}"
            self.display.say(f"runs        {runs}, each validated on {items} windows or rows")
            self.display.say("nothing was written; leave --dry_run out to compare")

    def prepare(self) -> None:
        """Data read, entries sized and tried, conditions set."""
        found = self._ask("reading the data", "facts")
        known, data = self.comparison.data, found["data"]
        if known and known["digest"] != data["digest"]:
            raise ValueError(
                f"resume: the data have changed since the comparison began (digest {known['digest'][:12]}, now {data['digest'][:12]}): "
                "begin another with --out"
            )
        self.comparison.data, self.comparison.unit, self.comparison.machine = data, found["unit"], found["machine"]
        self.comparison.settings |= {"batch_size": found["batch_size"], "length": found["length"]}
        self.display.say(f"data        {data['text']}")
        self._probe()
        if "conditions" not in self.comparison.settings:
            self._set_conditions()
        self.keep()

    def keep(self) -> None:
        """Save what there is."""
        self.comparison.seconds = self._before + time.monotonic() - self.began
        if self.folder is not None:
            save(self.comparison, self.folder / NAME)
            self.after(self.comparison, self.folder)

    def _probe(self) -> None:
        """Others' models first: what they have is what ours are made to have."""
        settings = self.comparison.settings
        for entry in sorted(self.comparison.entries, key=lambda entry: entry.source == "ours"):
            if entry.parameters or entry.skipped:
                continue
            model = self.foreign.get(entry.name)
            parameters = settings.get("parameters") or target_parameters(self.options.parameters)
            if model is None and parameters is None:
                parameters = PARAMETERS
            try:
                spec = None if model is None else model.spec()
                found = self._ask(f"trying {entry.name}", "probe", name=entry.name, spec=spec, parameters=parameters)
            except WorkError as error:
                if error.kind == "KeyboardInterrupt":
                    raise KeyboardInterrupt from error
                entry.skipped = str(error)
                self.display.say(f"left out    {entry.name}: {error}")
                continue
            entry.options, entry.parameters, entry.flops_per_token = found["options"], found["parameters"], found["flops_per_token"]
            entry.step_seconds, entry.memory_bytes = found["step_seconds"], found["memory_bytes"]
            settings.setdefault("item_seconds", {})[entry.name] = found["item_seconds"]
            settings.setdefault("default_rates", {})[entry.name] = found["learning_rate"]
            settings["tokens_per_step"] = found["tokens_per_step"]
            settings["parameters"] = parameters or entry.parameters
            self.display.say(f"model       {self._described(entry)}")
        if not any(entry.parameters for entry in self.comparison.entries):
            raise ValueError("models: none of them can be compared on these data; the lines above say why")

    def _set_conditions(self) -> None:
        settings, data = self.comparison.settings, self.comparison.data
        probes = [
            Probe(entry.name, entry.step_seconds or 1.0, settings["item_seconds"][entry.name], entry.flops_per_token)
            for entry in self._taking_part()
        ]
        left = self.options.seconds() - (time.monotonic() - self.began)
        conditions = divide(
            self.options, probes, left=left, tokens_per_step=settings["tokens_per_step"], available_items=data["validation_items"]
        )
        settings["conditions"] = conditions.to_dict()
        self.display.say(f"each run    {self._each_run()}")

    def _each_run(self) -> str:
        conditions = self.comparison.settings["conditions"]
        if conditions["run_seconds"] is not None:
            return f"{conditions['run_seconds']:,.0f} s of training"
        steps = conditions["run_steps"]
        if self.options.equal == "tokens":
            return f"{next(iter(steps.values())) * self.comparison.settings['tokens_per_step']:,} tokens"
        name, count = next(iter(steps.items()))
        return f"{count * self.comparison.settings['tokens_per_step'] * self.comparison.entry(name).flops_per_token:.2e} FLOP"

    def _search(self, entry: Entry) -> None:
        """The rate with the lowest training loss of as many as are tried for each entry."""
        if entry.rate is not None:
            return
        usual = self.comparison.settings["default_rates"][entry.name]
        if self.options.rates == 1:
            entry.rate = usual
            return
        while len(entry.rates) < self.options.rates:
            self._try_rate(entry, next_rate(usual, {rate.rate: rate.score for rate in entry.rates}))
        entry.rate = best_rate({rate.rate: rate.score for rate in entry.rates})
        if entry.rate is None:
            errors = self.comparison.settings.get("rate_errors", {}).get(entry.name, "the loss became infinite or NaN")
            entry.skipped = f"none of the learning rates tried gave a finite loss: {errors}"
            self.display.say(f"left out    {entry.name}: {entry.skipped}")
        else:
            shown = ", ".join(f"{rate.rate:.2g}: {'diverged' if rate.score is None else format(rate.score, '.3f')}" for rate in entry.rates)
            self.display.say(f"rates       {entry.name}: {shown}; taken {entry.rate:.2g}")
        self.keep()

    def _try_rate(self, entry: Entry, rate: float) -> None:
        conditions = self.comparison.settings["conditions"]
        steps = None if conditions["rate_steps"] is None else conditions["rate_steps"].get(entry.name)
        try:
            found = self._ask(
                f"{entry.name}, learning rate {rate:.2g}", "rate",
                entry=dataclasses.asdict(entry), rate=rate, seconds=conditions["rate_seconds"], steps=steps,
            )  # fmt: skip
        except WorkError as error:
            self._reraise_interruption(error)
            self.comparison.settings.setdefault("rate_errors", {})[entry.name] = str(error)
            found = {"score": None, "steps": 0, "seconds": 0.0}
        entry.rates.append(Rate(rate=rate, **found))

    def _trials(self) -> Iterator[Trial]:
        """Seed after seed, so that what there is when time is short is of all entries."""
        known = {(trial.entry, trial.seed) for trial in self.comparison.trials}
        for seed in range(self.options.seeds):
            for entry in self._taking_part():
                if (entry.name, seed) not in known:
                    self.comparison.trials.append(Trial(entry=entry.name, seed=seed, folder=run_folder(entry.name, seed)))
        return iter([trial for trial in self.comparison.trials if trial.status == "waiting"])

    def _train(self, trial: Trial) -> None:
        assert self.folder is not None
        entry, conditions = self.comparison.entry(trial.entry), self.comparison.settings["conditions"]
        lost = next((other for other in self.comparison.trials if other.entry == entry.name and other.status == "failed"), None)
        if lost is not None and lost.error.startswith("its process"):  # out of memory: it would be again
            trial.status, trial.error = "failed", HOPELESS.format(seed=lost.seed)
            return
        number = 1 + sum(other.status != "waiting" for other in self.comparison.trials)
        what = f"run {number} of {len(self.comparison.trials)}: {entry.name}, seed {trial.seed}"
        try:
            found = self._ask(
                what, "train", entry=dataclasses.asdict(entry), seed=trial.seed, rate=entry.rate, folder=str(self.folder / trial.folder),
                seconds=conditions["run_seconds"], steps=None if conditions["run_steps"] is None else self._steps(entry),
                items=conditions["items"], sample=conditions["sample_items"],
            )  # fmt: skip
        except WorkError as error:
            self._reraise_interruption(error)
            trial.status, trial.error = "failed", str(error)
            self.display.say(f"failed      {entry.name}, seed {trial.seed}: {error}")
        else:
            found["curve"] = [Point(**point) for point in found["curve"]]
            for name, value in found.items():
                setattr(trial, name, value)
            trial.status = "done"
            value = self.display.value(trial.value, self.comparison.unit)
            self.display.say(f"run         {number} of {len(self.comparison.trials)}: {entry.name}, seed {trial.seed}: {value}")
        self.keep()

    def _steps(self, entry: Entry) -> int:
        """Of a run, where not time is equal; of an entry that was added later, from what the others get."""
        settings = self.comparison.settings
        steps: dict[str, int] = settings["conditions"]["run_steps"]
        if entry.name not in steps:
            name, count = next(iter(steps.items()))
            per_flop = self.comparison.entry(name).flops_per_token / entry.flops_per_token if self.options.equal == "flops" else 1.0
            steps[entry.name] = max(1, round(count * per_flop))
        return steps[entry.name]

    def _examine(self, trial: Trial) -> None:
        """Loss by position, with the context cut, and a sample of text."""
        assert self.folder is not None
        entry = self.comparison.entry(trial.entry)
        try:
            found = self._ask(
                f"examining {entry.name}, seed {trial.seed}", "examine", entry=dataclasses.asdict(entry),
                folder=str(self.folder / trial.folder), seconds=self.comparison.settings["conditions"]["examine_seconds"], seed=trial.seed,
            )  # fmt: skip
        except WorkError as error:
            self._reraise_interruption(error)
            self.comparison.settings.setdefault("not_examined", {})[f"{trial.entry} {trial.seed}"] = str(error)
        else:
            trial.positions = [Span(**span) for span in found["positions"]]
            trial.cuts = [Cut(**cut) for cut in found["cuts"]]
            trial.sample = found["sample"]
            self.comparison.settings.setdefault("examined", []).append(f"{trial.entry} {trial.seed}")
        self.keep()

    def _examined(self, trial: Trial) -> bool:
        settings, name = self.comparison.settings, f"{trial.entry} {trial.seed}"
        return name in settings.get("examined", []) or name in settings.get("not_examined", {})

    def _measure_speed(self) -> None:
        """Time and memory against length."""

    def _taking_part(self) -> list[Entry]:
        return [entry for entry in self.comparison.entries if entry.parameters and not entry.skipped]

    def _described(self, entry: Entry) -> str:
        shape = f", dim {entry.options['dim']}, depth {entry.options['depth']}" if entry.source == "ours" else ""
        return f"{entry.name}{shape}: {entry.parameters:,} parameters, {1e3 * (entry.step_seconds or 0):.0f} ms a step"

    def _ask(self, what: str, do: str, **arguments: Any) -> dict[str, Any]:
        self.display.doing(what)
        try:
            return self.workers.ask(do, self.display.progress, **arguments)
        except WorkError as error:
            if do == "facts" and error.kind in ("ValueError", "ModuleNotFoundError"):
                raise ValueError(str(error)) from error
            raise
        finally:
            self.display.done()

    @staticmethod
    def _reraise_interruption(error: WorkError) -> None:
        if error.kind == "KeyboardInterrupt":
            raise KeyboardInterrupt from error

    @contextmanager
    def _closing(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.workers.close(interrupted=isinstance(error, KeyboardInterrupt))
            if self.comparison.entries and self.comparison.data:
                self.keep()
            raise
        self.workers.close()


def added(options: CompareOptions, names: str) -> CompareOptions:
    """The options with further models, of `--add_model`.

    Raises:
        ValueError: a model that is no model.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    mine, others = [], []
    for name in wanted:
        if name in MODELS:
            mine.append(name)
        else:
            foreign_model(name)
            others.append(name)
    models = options.models
    if mine:
        models = ",".join([*ours(options), *mine])
    model = ",".join([*([options.model] if options.model else []), *others]) or None
    return dataclasses.replace(options, models=models, model=model)
