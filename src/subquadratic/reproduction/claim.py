"""What a claim is, and what measuring it gives. Nothing here needs torch."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

HOLDS, FAILS, UNDECIDED, UNMEASURABLE = "holds", "does not hold", "undecided", "not measurable here"
NOT_RUN, OLDER = "not run yet", "older form"
SOURCES = {
    "read": "read in the paper",
    "repository": "read in the authors' repository",
    "secondary": "read in a secondary source, not in the paper",
    "theory": "computed from the paper's formula",
    "": "",
}


class Diverged(FloatingPointError):
    """The loss of a trained model is no longer a finite number. The text is a sentence that says so, without its full stop; a claim that
    needed the model does not hold."""


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

    def met(self, value: float | None, margin: float = 0.0) -> bool | None:
        """Whether the number is within the bounds.

        Args:
            value: that was measured; None and NaN: it could not be measured.
            margin: half of the width of its 95% interval; NaN: not known.

        Returns:
            True where the whole interval is within the bounds, False where none of it is, None where part of it is or there is no number.
        """
        if not measured(value):
            return None
        if margin < 0:
            raise ValueError(f"{self.number}: the margin of a number is at least 0, got {margin}")
        low, high = (value - margin, value + margin) if margin else (value, value)
        if high < self.least or low > self.most:
            return False
        return True if self.least <= low and high <= self.most else None

    def answer(self, measurement: Measurement) -> str:
        """`yes`, `no`, or why there is neither."""
        value = measurement.numbers[self.number]
        met = self.met(value, measurement.margins.get(self.number, 0.0))
        if met is None:
            return UNDECIDED if measured(value) else UNMEASURABLE
        return "yes" if met else "no"

    def shown(self, measurement: Measurement) -> str:
        """The number, with its margin, in three digits, or in more where fewer do not show on which side of a bound they are."""
        value, margin = measurement.numbers[self.number], measurement.margins.get(self.number, 0.0)
        if not measured(value):
            return "-"
        texts = ((figure(value, digits), figure(margin, digits - 1)) for digits in range(3, 17))
        number, width = next((text for text in texts if self._tells(value, margin, *text)), (str(value), str(margin)))
        return f"{number} ± {width}" if margin else number

    def _tells(self, value: float, margin: float, *texts: str) -> bool:
        """Whether these texts for the two leave either end on its side of each bound, and the number no further from where it is than a
        twentieth of what lies between two bounds."""
        read, width = (float(text.replace(",", "")) for text in texts)
        for end, told in ((value - margin, read - width), (value, read), (value + margin, read + width)):
            if any(_sign(end - bound) != _sign(told - bound) for bound in (self.least, self.most)):
                return False
        return read == value or abs(read - value) <= (self.most - self.least) / 20

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
        say: hears what is going on. Settings that differ in nothing else are equal.
    """

    seed: int = 0
    effort: float = 1.0
    say: Callable[[str], None] = field(default=lambda text: None, compare=False)

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
        numbers: what conditions are about. NaN: it cannot be measured here.
        margins: half of the width of a number's 95% interval, over seeds or windows; a number without one is taken as exact.
        columns, rows: a table for people.
        plot: a plot, where there is one.
        setup: what was measured, in one sentence: sizes, samples, steps.
        finding: what came out, in sentences, where the numbers do not say it by themselves.
        unavailable: why it cannot be measured here; everything else is empty then.
        diverged: whose loss became infinite or NaN, and when; everything else is empty then.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    margins: dict[str, float] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    plot: Plot | None = None
    setup: str = ""
    finding: str = ""
    unavailable: str = ""
    diverged: str = ""


@dataclass(kw_only=True)
class Outcome:
    """A measurement, and what it says of the claim."""

    verdict: str
    measurement: Measurement
    met: list[bool | None] = field(default_factory=list)
    """Of each condition, in their order; None: undecided, or not measurable here."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a claim was when it was measured. The arguments are a claim's."""

    text: str
    note: str
    conditions: tuple[Condition, ...]


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
        seconds: measured cost on two cores, of its whole experiment.
        note: what a reader must know to judge the verdict, whatever it is; what came out is a `Measurement.finding`.
        group: claims of one group share most of their cost, which is paid once; empty: those of the same experiment do.
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
    group: str = ""

    def __post_init__(self) -> None:
        if self.source not in SOURCES or bool(self.source) != bool(self.printed):
            raise ValueError(f"{self.id}: what is printed needs a source of {', '.join(filter(None, SOURCES))}, got {self.source!r}")
        if not self.conditions:
            raise ValueError(f"{self.id}: a claim without conditions cannot fail")

    @property
    def form(self) -> Form:
        """What is asked now."""
        return Form(text=self.text, note=self.note, conditions=self.conditions)

    def find(self, setting: Setting) -> Measurement:
        """What its experiment finds."""
        file, _, function = self.experiment.partition(".")
        experiment = getattr(importlib.import_module(f"{__package__}.experiments.{file}"), function)
        try:
            return experiment(setting)
        except Diverged as error:
            return Measurement(diverged=str(error))

    def measure(self, setting: Setting) -> Outcome:
        """Measure it and judge what was found."""
        return self.judge(self.find(setting))

    def judge(self, measurement: Measurement) -> Outcome:
        """What numbers say of the claim, whoever measured them: it does not hold where a condition is not met, and holds where all are.
        Else it is not measurable here where a number is missing, and undecided where an interval lies across a bound.

        Raises:
            KeyError: a condition's number is not among them.
        """
        return judged(self.conditions, measurement)


def judged(conditions: Sequence[Condition], measurement: Measurement) -> Outcome:
    """`Claim.judge`, by any conditions."""
    if measurement.unavailable:
        return Outcome(verdict=UNMEASURABLE, measurement=measurement)
    if measurement.diverged:
        return Outcome(verdict=FAILS, measurement=measurement)
    numbers, margins = measurement.numbers, measurement.margins
    met = [condition.met(numbers[condition.number], margins.get(condition.number, 0.0)) for condition in conditions]
    missing = not all(measured(numbers[condition.number]) for condition in conditions)
    verdict = FAILS if False in met else UNMEASURABLE if missing else UNDECIDED if None in met else HOLDS
    return Outcome(verdict=verdict, measurement=measurement, met=met)


def _sign(value: float) -> int:
    return 0 if abs(value) < 1e-12 else int(math.copysign(1, value))  # sums of decimal fractions are not exact


def measured(value: float | None) -> TypeGuard[float]:
    """Whether there is a number."""
    return value is not None and not math.isnan(value)


def counted(verdicts: Iterable[str]) -> str:
    """How many of each: `7 hold, 1 does not hold, 2 not run yet`."""
    found = Counter(verdicts)
    several = {HOLDS: "hold", FAILS: "do not hold", OLDER: "were measured in an older form"}
    single = {OLDER: "was measured in an older form"}
    names = [name for name in (HOLDS, FAILS, UNDECIDED, UNMEASURABLE, OLDER, NOT_RUN) if found[name]]
    return ", ".join(f"{found[name]} {(several if found[name] > 1 else single).get(name, name)}" for name in names)


def figure(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, or more: `0.872`, `12,400`, `1.3e-06`."""
    if not math.isfinite(value) or value == 0:
        return "0" if value == 0 else str(value)
    size = abs(value)
    if size >= 1e7 or size < 1e-4:
        return f"{value:.{max(digits - 1, 1)}g}"
    if size < 100:
        return f"{value:#.{digits}g}".rstrip(".")
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
