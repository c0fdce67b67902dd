"""How the time of a comparison is divided, so that every run gets the same of what is to be equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .options import CompareOptions

# Shares of what is left of the budget when sizes are known.
TRAINING, SEARCHING, VALIDATING, EXAMINING, MEASURING = 0.58, 0.14, 0.10, 0.06, 0.12
STARTING = 2.0  # seconds of a run that are no training: building, writing; measured on two cores
CHECKED = 6  # validations of a run on a sample, that of the untrained model among them
LEAST_ITEMS = 8  # windows or rows in a validation
WIDEST_SAMPLE = 64


@dataclass(frozen=True)
class Probe:
    """What is known of an entry before it is trained."""

    name: str
    step_seconds: float
    item_seconds: float
    """Of a validation, for a window or row."""
    flops_per_token: float


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
    """For loss by position and with the context cut, of each run."""
    speed_seconds: float
    """For all measurements of speed."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def divide(options: CompareOptions, probes: Sequence[Probe], *, left: float, tokens_per_step: int, available_items: int) -> Conditions:
    """The conditions that use up `left` seconds.

    Args:
        probes: of the entries that take part.
        tokens_per_step: of a training step, the same for all.
        available_items: of the validation data.

    Raises:
        ValueError: so little time that a run would be shorter than a few steps of the slowest entry.
    """
    runs, trials = len(probes) * options.seeds, len(probes) * (options.rates if options.rates > 1 else 0)
    searching = SEARCHING if trials else 0.0
    training = (TRAINING + SEARCHING - searching) * left - STARTING * runs
    slowest = max(probe.step_seconds for probe in probes)
    if training < runs * slowest * 10:
        wanted = runs * (slowest * 10 + STARTING) / TRAINING
        raise ValueError(
            f"budget: {len(probes)} models with {options.seeds} seeds need {wanted:,.0f} s at least, and {max(left, 0):,.0f} s are left: "
            "give a larger --budget, fewer --seeds or --models, or a smaller --length or --parameters"
        )
    share = searching * left / training * options.seeds / max(options.rates, 1)  # of a run, while a rate is tried
    items_at_once = sum(probe.item_seconds for probe in probes) * options.seeds
    items = int(VALIDATING * left / max(items_at_once * (1 + CHECKED / 4), 1e-9))
    items = max(min(LEAST_ITEMS, available_items), min(items, available_items))
    seconds, steps = _equal(options, probes, training, tokens_per_step)
    return Conditions(
        run_seconds=seconds,
        run_steps=steps,
        rate_seconds=None if seconds is None else seconds * share,
        rate_steps=None if steps is None else {name: max(4, int(count * share)) for name, count in steps.items()},
        items=items,
        sample_items=max(1, min(items, WIDEST_SAMPLE, max(LEAST_ITEMS, items // 4))),
        examine_seconds=EXAMINING * left / runs,
        speed_seconds=MEASURING * left,
    )


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


def seconds_of_run(conditions: dict[str, Any], name: str, step_seconds: float | None) -> float:
    """About how long the training of a run takes."""
    if conditions["run_seconds"] is not None:
        return float(conditions["run_seconds"])
    return float(conditions["run_steps"].get(name, 0) * (step_seconds or 0.0))
