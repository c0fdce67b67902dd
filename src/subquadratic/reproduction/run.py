"""Measure claims one after another, and keep each result as soon as there is one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..benchmark.machine import facts
from ..benchmark.timing import reason
from ..core.threads import use_threads
from .catalogue import cost
from .claim import UNMEASURABLE, Claim, Measurement, Setting
from .progress import about
from .results import NAME, Result, load, merged, save
from .shared import Cost, counting


@dataclass(kw_only=True)
class Run:
    """What came of it: `results` in the order of the claims, and why a claim has none."""

    results: list[Result] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Claims whose result was there already."""
    broken: dict[str, str] = field(default_factory=dict)
    """What went wrong in a measurement; its older result, if any, stays."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why a claim did not fit into the time."""


def measure(
    claims: Sequence[Claim],
    *,
    setting: Setting,
    threads: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    seconds: float | None = None,
    begins: Callable[[Claim, str, float], None] = lambda claim, place, cost: None,
    done: Callable[[Claim, Result], None] = lambda claim, result: None,
    broke: Callable[[Claim, str], None] = lambda claim, why: None,
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Measure claims in their order, and what they share once.

    Args:
        claims: from `catalogue`.
        setting: seed and effort.
        threads: of PyTorch; None: as it is. Set back afterwards.
        out: a folder for results.json, which is written after every claim; results of other claims in it stay.
        resume: keep results that are there already, of the same code and seed.
        seconds: no claim begins whose cost is more than what is left of them; what is kept costs nothing.
        begins: is told which claim comes, that it is, say, "2 of 5", and about how many seconds it takes.
        done: gets each result.
        broke: is told whose measurement went wrong, and why.

    Raises:
        ValueError: results.json in the folder is another program's, there are too many threads, or no claim fits into the time.
    """
    before, began = torch.get_num_threads(), clock()
    run, found, spent = Run(), Found(setting), list[Claim]()
    try:
        use_threads(threads)
        old = load(out / NAME) if out is not None and (out / NAME).exists() else []
        kept = _kept(old, setting) if resume else set()
        run.kept = [claim.id for claim in claims if claim.id in kept]
        left = [claim for claim in claims if claim.id not in kept]
        _check_budget(left, run, seconds)
        for index, claim in enumerate(left):
            price = cost([*spent, claim]) - cost(spent)
            if price and seconds is not None and clock() - began + price > seconds:
                run.left_out[claim.id] = f"takes {about(price)}" if price > seconds else f"no time was left for its {about(price)}"
                continue
            begins(claim, f"{index + 1} of {len(left)}", price)
            spent.append(claim)
            try:
                result = _result(claim, found)
            except Exception as error:  # told at the end, and by the exit status; the other claims go on
                run.broken[claim.id] = reason(error)
                broke(claim, run.broken[claim.id])
                continue
            run.results.append(result)
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                save(merged(load(out / NAME) if (out / NAME).exists() else [], [result]), out / NAME)
            done(claim, result)
    finally:
        torch.set_num_threads(before)
    return run


class Found:
    """What experiments found with a setting, each once, and what each cost."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._known: dict[str, tuple[Measurement, Cost]] = {}

    def by(self, claim: Claim) -> tuple[Measurement, Cost, float]:
        """The measurement, its whole cost, and the seconds of it that another claim spent."""
        if claim.experiment in self._known:
            measurement, whole = self._known[claim.experiment]
            return measurement, whole, whole.seconds
        torch.manual_seed(self.setting.seed)
        began, used = time.perf_counter(), time.process_time()
        with counting() as earlier:
            measurement = claim.find(self.setting)
        own = Cost(seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - used)
        self._known[claim.experiment] = measurement, own + earlier
        return measurement, own + earlier, earlier.seconds


def _result(claim: Claim, found: Found) -> Result:
    measurement, whole, shared = found.by(claim)
    outcome = claim.judge(measurement)
    return Result(
        id=claim.id,
        seed=found.setting.seed,
        seconds=round(whole.seconds, 2),
        cpu_seconds=round(whole.cpu_seconds, 2),
        verdict=outcome.verdict,
        met=outcome.met,
        machine=facts(),
        measurement=measurement,
        shared_seconds=round(shared, 2),
        form=claim.form,
    )


def _kept(old: Sequence[Result], setting: Setting) -> set[str]:
    """Of which claims there is a result by this code with this seed; what could not be measured is tried again."""
    code = facts()["code"]
    ours = [result for result in old if result.machine.get("code") == code and result.seed == setting.seed]
    return {result.id for result in ours if result.verdict != UNMEASURABLE}


def _check_budget(left: Sequence[Claim], run: Run, seconds: float | None) -> None:
    cheapest = min(left, key=lambda claim: claim.seconds, default=None)
    if cheapest is not None and not run.kept and cheapest.seconds > (math.inf if seconds is None else seconds):
        raise ValueError(f"budget: nothing fits into {seconds:g} s: {cheapest.id} takes {about(cheapest.seconds)}")
