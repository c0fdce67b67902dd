"""How the time of a comparison is divided, so that every run gets the same of what is to be equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .options import CompareOptions
from .results import Comparison, Entry

# Shares of what is left of the budget when sizes are known; training has the rest.
SEARCHING, VALIDATING, CHECKING, EXAMINING, MEASURING = 0.14, 0.12, 0.04, 0.06, 0.12
STARTING = 0.4  # of a run that is no training (building, writing), over the seconds that a process takes to load; measured on two cores
LOADING = 5.0  # seconds of that, where it was not measured
LOOKING = 0.5  # of them, that measuring a model at the shortest length takes
DEAR = 0.25  # of the time left that this may take for all
CHECKED = 6  # validations of a run on a sample, that of the untrained model among them
LEAST_ITEMS, ENOUGH_ITEMS, MOST_ITEMS = 8, 64, 4096  # windows or rows in the validation at the end
COSTLY = 0.25  # of the time left that `ENOUGH_ITEMS` may take
WIDEST_SAMPLE = 64
WINDOWS, TARGETS = 64, 2048  # in which loss by position is measured, and that are predicted with the context cut: at most
LEAST_STEPS = {"run": 1, "rate": 4}


@dataclass(frozen=True)
class Probe:
    """What is known of an entry before it is trained."""

    name: str
    step_seconds: float
    item_seconds: float
    """Of a validation, for a window or row."""
    flops_per_token: float


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What it takes to examine a model on a text: `passes` over each window, and for `targets` predictions with the context cut the time of
    `windows` windows."""

    passes: int
    targets: int
    windows: int


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What each run gets. Of `run_seconds` and `run_steps` (by entry) one is None; so too while rates are tried."""

    run_seconds: float | None
    run_steps: dict[str, int] | None
    rate_seconds: float | None
    rate_steps: dict[str, int] | None
    items: int
    """Windows or rows of the validation at the end, the same for all."""
    sample_items: int
    """And of each validation on the way."""
    examine_seconds: float
    """For loss by position and with the context cut, of each run, about."""
    examine_windows: int
    """Windows in which loss by position is measured, the same for all."""
    examine_targets: int
    """Predictions that are made again with the context cut, the same for all."""
    speed_seconds: float
    """For all measurements of speed."""
    starting_seconds: float
    """Of a run that are no training, about."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def divide(
    options: CompareOptions,
    probes: Sequence[Probe],
    *,
    left: float,
    tokens_per_step: int,
    available_items: int,
    loading: float = LOADING,
    examination: Examination | None = None,
) -> Conditions:
    """The conditions that use up `left` seconds.

    Args:
        probes: of the entries that take part.
        tokens_per_step: of a training step, the same for all.
        available_items: of the validation data.
        loading: seconds that a process takes to load what it needs, which tells how fast this machine starts a run, too.
        examination: None: these data have no positions to look at.

    Raises:
        ValueError: so little time that a run would be shorter than a few steps of the slowest entry.
    """
    runs, trials = len(probes) * options.seeds, len(probes) * (options.rates if options.rates > 1 else 0)
    starting, left = STARTING * loading * runs, left - loading  # that of the process that measures speed
    searching, examining = SEARCHING if trials else 0.0, EXAMINING if examination is not None else EXAMINING / 6
    each = max(sum(probe.item_seconds for probe in probes) * options.seeds, 1e-9)  # seconds of an item in every run
    items, sample = _items(left, each, available_items)
    measuring = max(MEASURING * left, min(LOOKING * loading * len(probes), DEAR * left))
    training = (1 - searching - examining) * left - measuring - (items + CHECKED * sample) * each - starting
    slowest = max(probe.step_seconds for probe in probes)
    if training < runs * slowest * 10:
        wanted = (runs * slowest * 10 + starting) / (1 - searching - examining - MEASURING - VALIDATING - CHECKING) + loading
        raise ValueError(
            f"budget: {len(probes)} models with {options.seeds} seeds need {wanted:,.0f} s at least, and {max(left + loading, 0):,.0f} s "
            "are left: give a larger --budget, fewer --seeds or --models, or a smaller --length or --parameters"
        )
    share = searching * left / training * options.seeds / max(options.rates, 1)  # of a run, while a rate is tried
    seconds, steps = _equal(options, probes, training, tokens_per_step)
    windows, targets = (0, 0) if examination is None else _examined(examination, examining * left / each)
    return Conditions(
        run_seconds=seconds,
        run_steps=steps,
        rate_seconds=None if seconds is None else seconds * share,
        rate_steps=None if steps is None else {name: max(LEAST_STEPS["rate"], int(count * share)) for name, count in steps.items()},
        items=items,
        sample_items=sample,
        examine_seconds=examining * left / runs,
        examine_windows=windows,
        examine_targets=targets,
        speed_seconds=measuring,
        starting_seconds=STARTING * loading,
    )


def _items(left: float, each: float, available: int) -> tuple[int, int]:
    """Items of the validation at the end: all of them, as far as its share of the time goes; and of one on the way."""
    enough = min(ENOUGH_ITEMS, int(COSTLY * left / each))
    items = min(max(int(VALIDATING * left / each), enough, LEAST_ITEMS), MOST_ITEMS, available)
    return items, max(1, min(items, WIDEST_SAMPLE, int(CHECKING * left / (CHECKED * each))))


def _examined(examination: Examination, room: float) -> tuple[int, int]:
    """Windows, and predictions with the context cut, for which `room` windows of every run are enough, half for each."""
    windows = max(1, min(WINDOWS, int(room / 2 / examination.passes)))
    groups = max(1, min(-(-TARGETS // examination.targets), int(room / 2 / examination.windows)))
    return windows, groups * examination.targets


def _equal(
    options: CompareOptions, probes: Sequence[Probe], training: float, tokens_per_step: int
) -> tuple[float | None, dict[str, int] | None]:
    """Seconds of a run, or optimizer steps by entry."""
    if options.equal == "time":
        return training / (len(probes) * options.seeds), None
    if options.equal == "tokens":
        steps = max(1, int(training / (options.seeds * sum(probe.step_seconds for probe in probes))))
        return None, {probe.name: steps for probe in probes}
    per_flop = sum(probe.step_seconds / (probe.flops_per_token * tokens_per_step) for probe in probes)
    flops = training / (options.seeds * per_flop)
    return None, {probe.name: max(1, round(flops / (probe.flops_per_token * tokens_per_step))) for probe in probes}


def steps_of(comparison: Comparison, entry: Entry, part: str = "run") -> int | None:
    """Optimizer steps of an entry's runs, or (`part` "rate") of a learning rate that is tried; None where time is equal.

    An entry that was added when the conditions were there gets what the others get: as many tokens, or as many operations.
    """
    steps: dict[str, int] | None = comparison.settings["conditions"][f"{part}_steps"]
    if steps is None:
        return None
    if entry.name not in steps:
        name, count = next(iter(steps.items()))
        known = comparison.entry(name)
        per_step = known.flops_per_token / entry.flops_per_token if comparison.settings["equal"] == "flops" else 1.0
        steps[entry.name] = max(LEAST_STEPS[part], round(count * per_step))
    return steps[entry.name]


def seconds_of(comparison: Comparison, entry: Entry, part: str = "run") -> float:
    """About how long the training of a run takes, or (`part` "rate") of a learning rate that is tried."""
    conditions: Mapping[str, Any] = comparison.settings["conditions"]
    steps = steps_of(comparison, entry, part)
    return float(conditions[f"{part}_seconds"]) if steps is None else steps * (entry.step_seconds or 0.0)
