"""What a claim is, and what measuring it gives. Nothing here needs torch."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

HOLDS, FAILS, UNMEASURABLE = "holds", "does not hold", "not measurable here"
NOT_RUN = "not run yet"
SOURCES = {
    "read": "read in the paper",
    "repository": "read in the authors' repository",
    "secondary": "read in a secondary source, not in the paper",
    "theory": "computed from the paper's formula",
    "": "",
}
CHEAP = 120.0  # seconds on two cores


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a claim was made."""

    name: str
    arxiv: str


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing that must be so: a measured number between two bounds, which are the target with its tolerance."""

    number: str
    """Its name in `Measurement.numbers`."""
    text: str
    """What it is, in words."""
    least: float = -math.inf
    most: float = math.inf

    def met(self, numbers: Mapping[str, float]) -> bool:
        """Whether it is so; never of NaN.

        Raises:
            KeyError: the number was not measured.
        """
        return self.least <= numbers[self.number] <= self.most

    def bounds(self) -> str:
        """`0.98 to 1.02`, `at least 5`, `at most 0.9`."""
        if math.isinf(self.least):
            return f"at most {self.most:g}"
        return f"at least {self.least:g}" if math.isinf(self.most) else f"{self.least:g} to {self.most:g}"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How claims are measured.

    Args:
        seed: of data, weights and samples.
        effort: share of the samples and training steps that are taken; 1 is what the tolerances are made for, less is for tests.
        say: hears what is going on.
    """

    seed: int = 0
    effort: float = 1.0
    say: Callable[[str], None] = lambda text: None

    def scaled(self, count: int, *, least: int = 1) -> int:
        """So many samples or steps at this effort."""
        return max(least, round(count * self.effort))


@dataclass(kw_only=True)
class Plot:
    """Lines to draw: `series` by name, each a list of (x, y)."""

    x: str
    y: str
    series: dict[str, list[tuple[float, float]]]
    x_log: bool = True
    y_log: bool = True
    dashed: tuple[str, ...] = ()
    """Series that are what something else is compared with."""


@dataclass(kw_only=True)
class Measurement:
    """What an experiment found.

    Args:
        numbers: what conditions are about.
        columns, rows: a table for people.
        plot: a plot, where there is one.
        setup: what was measured, in one sentence: sizes, samples, steps.
        unavailable: why it cannot be measured here; everything else is empty then.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    plot: Plot | None = None
    setup: str = ""
    unavailable: str = ""


@dataclass(kw_only=True)
class Outcome:
    """A measurement, and what it says of the claim."""

    verdict: str
    measurement: Measurement
    met: list[bool] = field(default_factory=list)
    """Of each condition, in their order."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence of a paper, or about its model, that a measurement can contradict.

    Args:
        id: such as "performer.lemma2".
        paper, place: where it is said: equation, table or figure. An empty place: it is ours, about the paper's model.
        text: the claim in one sentence.
        printed: what the paper printed; empty where nothing is quoted.
        source: where that was read, one of `SOURCES`.
        conditions: all of them hold, or the claim does not.
        experiment: "file.function" in `experiments/`, which takes a `Setting` and gives a `Measurement`.
        seconds: measured cost on two cores.
        note: what a reader must know to judge the verdict.
    """

    id: str
    paper: Paper
    place: str
    text: str
    experiment: str
    conditions: tuple[Condition, ...]
    seconds: float
    printed: str = ""
    source: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.source not in SOURCES or bool(self.source) != bool(self.printed):
            raise ValueError(f"{self.id}: what is printed needs a source of {', '.join(filter(None, SOURCES))}, got {self.source!r}")
        if not self.conditions:
            raise ValueError(f"{self.id}: a claim without conditions cannot fail")

    def measure(self, setting: Setting) -> Outcome:
        """Measure it and judge what was found."""
        file, _, function = self.experiment.partition(".")
        experiment = getattr(importlib.import_module(f"{__package__}.experiments.{file}"), function)
        return self.judge(experiment(setting))

    def judge(self, measurement: Measurement) -> Outcome:
        """What numbers say of the claim, whoever measured them.

        Raises:
            KeyError: a condition's number is missing.
        """
        if measurement.unavailable:
            return Outcome(verdict=UNMEASURABLE, measurement=measurement)
        met = [condition.met(measurement.numbers) for condition in self.conditions]
        return Outcome(verdict=HOLDS if all(met) else FAILS, measurement=measurement, met=met)


def counted(verdicts: Iterable[str]) -> str:
    """How many of each: `7 hold, 1 does not hold, 2 not run yet`."""
    found = Counter(verdicts)
    several = {HOLDS: "hold", FAILS: "do not hold"}
    names = [name for name in (HOLDS, FAILS, UNMEASURABLE, NOT_RUN) if found[name]]
    return ", ".join(f"{found[name]} {several.get(name, name) if found[name] > 1 else name}" for name in names)


def figure(value: float) -> str:
    """A number with three significant digits: `0.872`, `12,400`, `1.3e-06`."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e7 or 0 < size < 1e-4:
        return f"{value:.2g}"
    if size >= 1000:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    return f"{value:#.3g}" if size < 100 else f"{value:.0f}"
