"""Measure claims one after another, and keep each result as soon as there is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..benchmark.machine import facts
from ..benchmark.timing import reason
from ..core.threads import use_threads
from .claim import Claim, Setting
from .results import NAME, Result, load, merged, save


@dataclass(kw_only=True)
class Run:
    """What came of it: `results` in the order of the claims, and why a claim has none."""

    results: list[Result] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Claims whose result was there already."""
    broken: dict[str, str] = field(default_factory=dict)
    """What went wrong in a measurement; its older result, if any, stays."""
    left_out: list[str] = field(default_factory=list)
    """Claims that no longer fitted into the time."""


def measure(
    claims: Sequence[Claim],
    *,
    setting: Setting,
    threads: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    seconds: float | None = None,
    show: Callable[[str], None] = lambda text: None,
    done: Callable[[Claim, Result], None] = lambda claim, result: None,
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Measure claims in their order.

    Args:
        claims: from `catalogue`.
        setting: seed and effort.
        threads: of PyTorch; None: as it is. Set back afterwards.
        out: a folder for results.json, which is written after every claim; results of other claims in it stay.
        resume: keep results that are there already, of the same code and seed.
        seconds: after which no further claim begins, and none whose cost no longer fits; the first is measured in any case.
        show: is told what happens.
        done: gets each result.

    Raises:
        ValueError: results.json in the folder is another program's, or there are too many threads.
    """
    before, began = torch.get_num_threads(), clock()
    run = Run()
    try:
        use_threads(threads)
        here = facts()
        old = load(out / NAME) if out is not None and (out / NAME).exists() else []
        current = {result.id for result in old if result.machine.get("code") == here["code"] and result.seed == setting.seed}
        for index, claim in enumerate(claims):
            if resume and claim.id in current:
                run.kept.append(claim.id)
                continue
            if seconds is not None and run.results and clock() - began + claim.seconds > seconds:
                run.left_out.append(claim.id)
                continue
            show(f"{index + 1} of {len(claims)}: {claim.id}")
            try:
                result = _measure_one(claim, setting)
            except Exception as error:  # told at the end, and by the exit status; the other claims go on
                run.broken[claim.id] = reason(error)
                show(f"{claim.id} broke: {run.broken[claim.id]}")
                continue
            run.results.append(result)
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                save(merged(load(out / NAME) if (out / NAME).exists() else [], [result]), out / NAME)
            done(claim, result)
    finally:
        torch.set_num_threads(before)
    return run


def _measure_one(claim: Claim, setting: Setting) -> Result:
    torch.manual_seed(setting.seed)
    began, used = time.perf_counter(), time.process_time()
    outcome = claim.measure(setting)
    taken = time.perf_counter() - began, time.process_time() - used
    return Result(
        id=claim.id,
        seed=setting.seed,
        seconds=round(taken[0], 2),
        cpu_seconds=round(taken[1], 2),
        verdict=outcome.verdict,
        met=outcome.met,
        machine=facts(),
        measurement=outcome.measurement,
    )
