"""Measure cases one after another: build the sides, check them, time them interleaved, measure memory, and save each result at once."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.free_memory import keep_freed_memory
from ..core.threads import check_threads
from .cases import STREAMED, Case, again, is_ours
from .competitors import build
from .floor import floor_of
from .imports import measure_import
from .machine import COPY, SIDE, Rates, facts, measure_rates, synchronize_of
from .memory import in_fresh_process, peak_above
from .results import NAME, Result, Run, Side, load, same_conditions, save
from .timing import interleave, reason
from .work import NotAvailable, Setting, TooSlow, Work

QUADRATIC = ("exact", "transformer", "x-transformers", "sdpa")
START = 60.0  # seconds that a fresh process has beside its call
PROBE = {"side": SIDE, "numbers": COPY, "tries": 5}  # what the machine's rates are measured with


def measure(
    cases: Sequence[Case],
    *,
    setting: Setting | None = None,
    threads: int | None = None,
    memory: bool = True,
    out: Path | None = None,
    resume: bool = False,
    probe: dict[str, int] | None = None,
    show: Callable[[str], None] = lambda text: None,
    done: Callable[[Result], None] = lambda result: None,
) -> Run:
    """Measure cases in their order.

    Args:
        cases: from `suites.py`.
        setting: device and dtype.
        threads: of PyTorch; None: as it is. Set back afterwards.
        memory: also measure peaks.
        out: a folder for results.json, which is written after every case.
        resume: leave out cases that are in that file already, as they are, if the code is still the same.
        probe: sizes of what the machine's rates are measured with, for tests.
        show: is told what happens.
        done: gets each result.

    Raises:
        ValueError: the results in the folder are of another machine, a device is missing, or there are too many threads.
    """
    setting = setting or Setting()
    if setting.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device: there is no GPU here for {setting.device}")
    check_threads(threads)
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        settings: dict[str, Any] = {"device": setting.device, "dtype": str(setting.dtype).removeprefix("torch.")}
        if setting.device == "cpu":
            settings["freed memory"] = "kept" if setting.keep_memory and keep_freed_memory() else "given back"
        run = Run(machine=facts(), settings=settings)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            if resume and (out / NAME).exists():
                run.results = _earlier(out / NAME, run, show)
        for index, case in enumerate(cases):
            old = run.find(case.name)
            if old is not None and not old.refused and old.case == case:
                continue
            show(f"{index + 1} of {len(cases)}: {case.name}")
            began = time.perf_counter()
            result = _measure_case(case, setting, memory=memory, known=run, probe=probe or PROBE, show=show)
            result.seconds = time.perf_counter() - began
            run.add(result)
            if out is not None:
                save(run, out / NAME)
            done(result)
        return run
    finally:
        torch.set_num_threads(before)


def _earlier(path: Path, run: Run, show: Callable[[str], None]) -> list[Result]:
    """What an earlier run measured of the same code on the same machine; nothing if it was other code."""
    old = load(path)
    other = same_conditions(old, run)
    if other is not None:
        raise ValueError(f"resume: {path} was measured under different conditions: {other}; use another --out")
    if old.machine.get("code") != run.machine["code"]:
        show(f"{path} was measured with different code: everything is measured again")
        return []
    return old.results


def _measure_case(case: Case, setting: Setting, *, memory: bool, known: Run, probe: dict[str, int], show: Callable[[str], None]) -> Result:
    if case.kind == "import":
        found = measure_import(case, rounds=case.rounds)
        return Result(case=case, sides=[Side(name=name, seconds=seconds) for name, seconds in found.items()])
    result = Result(case=case, sides=[Side(name=name) for name in case.sides])
    rates = measure_rates(device=setting.device, dtype=setting.dtype, **probe)
    result.rates = dataclasses.asdict(rates)
    if case.kind == "million":
        return _measure_million(result, rates)
    works = _build(result, setting, known)
    result.refused = result.refused or _refusal(result, works)
    if not works or result.refused:
        return result
    show(f"{case.name}: timing {', '.join(works)}")
    readings = interleave(
        {name: work.call for name, work in works.items()},
        rounds=case.rounds, least=case.least, budget=case.budget, cap={name: _cap(name, case) for name in works},
        synchronize=synchronize_of(setting.device),
    )  # fmt: skip
    for side in result.sides:
        if side.name not in works:
            continue
        work = works[side.name]
        side.seconds, side.note = readings.seconds.get(side.name, []), readings.dropped.get(side.name, side.note)
        side.tokens, side.parameter_bytes, side.state_bytes = work.tokens, work.parameter_bytes, work.state_bytes
        if is_ours(side.name) or again(side.name, case) is not None:
            _put_floor(side, case, setting, rates)
    if setting.device.startswith("cuda"):
        for side in result.sides if memory and case.memory else ():
            if side.seconds:
                _put_memory(side, peak_above(works[side.name].call, device=setting.device))
        return result
    works.clear()
    gc.collect()  # a fresh process needs the room
    if memory and case.memory:
        _weigh(result, setting, show)
    return result


def _build(result: Result, setting: Setting, known: Run) -> dict[str, Work]:
    """The sides that can be had, by name; the others get a note."""
    shared: dict[str, Any] = {}
    works = {}
    for side in result.sides:
        expected = _expected(side.name, result.case, known)
        cap = _cap(side.name, result.case)
        if expected is not None and expected > cap:
            side.note = f"would take more than {cap:.0f} s a call"
            continue
        try:
            works[side.name] = build(side.name, result.case, setting, shared)
        except (NotAvailable, TooSlow) as error:
            side.note = str(error)
        except Exception as error:  # of someone else's code, or too large for the machine
            side.note = f"failed: {reason(error)}"
            if is_ours(side.name):  # told at the end, and by the exit status; the other cases go on
                result.refused = f"{result.label(side)}: {side.note}"
                return {}
    return works


def _refusal(result: Result, works: dict[str, Work]) -> str:
    """What is wrong with the first side that is; empty if all are right. A competitor that cannot be run at these sizes is no reason not to
    measure ours: it leaves `works`, with a note."""
    for side in result.sides:
        if side.name not in works:
            continue
        try:
            wrong = works[side.name].check()
        except Exception as error:
            if not is_ours(side.name):
                side.note = f"failed: {reason(error)}"
                del works[side.name]
                continue
            wrong = reason(error)
        if wrong:
            side.note = wrong
            return f"{result.label(side)}: {wrong}"
    return ""


def _cap(name: str, case: Case) -> float:
    """Seconds of a call after which a side is left out. Along the lengths the linear ones have more: a slope needs the longest."""
    patient = case.name.startswith("lengths/train/") and name not in (*QUADRATIC, "feedback_transformer")
    return 3 * case.cap if patient else case.cap


def _expected(name: str, case: Case, known: Run) -> float | None:
    """Seconds of a training step that a side would take, from the longest sequence shorter than this that it was measured with; infinity
    if that was too slow already."""
    if not case.name.startswith("lengths/train/"):
        return None
    shorter = [
        (result.case.length, side)
        for result in known.results
        if result.case.name.startswith("lengths/train/") and result.case.length < case.length and result.case.sizes == case.sizes
        for side in result.sides
        if side.name == name
    ]
    if not shorter:
        return None
    length, side = max(shorter, key=lambda pair: pair[0])
    if side.time is None:
        return float("inf") if "more than" in side.note else None
    growth = case.length / length
    # What is quadratic in the end is so only in part now: half-way between the two powers is too little, never too much.
    return side.time * growth ** (1.5 if name in QUADRATIC else 1)


def _put_floor(side: Side, case: Case, setting: Setting, rates: Rates) -> None:
    case = again(side.name, case) or case
    floor = floor_of(
        side.name, case, parameter_bytes=side.parameter_bytes, state_bytes=side.state_bytes,
        number=setting.dtype.itemsize, tokens=max(1, side.tokens // case.batch) if case.mode in STREAMED else 1,
    )  # fmt: skip
    if floor is not None:
        side.floor_flops, side.floor_bytes, side.floor_seconds = floor.flops, floor.bytes, floor.seconds(rates)


def _put_memory(side: Side, found: dict[str, int] | None) -> None:
    if found is not None:
        side.above_bytes, side.peak_bytes = found["above"], found["peak"]


def _weigh(result: Result, setting: Setting, show: Callable[[str], None]) -> None:
    for side in result.sides:
        if side.time is None:
            continue
        show(f"{result.case.name}: memory of {result.label(side)}")
        request = {
            "case": result.case.to_dict(),
            "side": side.name,
            "threads": torch.get_num_threads(),
            "dtype": str(setting.dtype).removeprefix("torch."),
        }
        try:
            _put_memory(side, in_fresh_process(request, timeout=START + 10 * max(result.case.cap, side.time)))
        except RuntimeError as error:
            side.note = f"memory: {error}"


def _measure_million(result: Result, rates: Rates) -> Result:
    """A sequence so long that time and peak come from one process of its own."""
    case = result.case
    request = {"case": case.to_dict(), "side": case.sides[0], "threads": torch.get_num_threads(), "dtype": "float32"}
    try:
        found = in_fresh_process(request, timeout=START + case.cap)
    except RuntimeError as error:
        result.sides[0].note = str(error)
        return result
    if not found["finite"]:
        result.refused = "a gradient is NaN or infinite"
        return result
    for side in result.sides:
        short = side.name.startswith("self@")
        side.seconds, side.parameter_bytes = found["times"][side.name], found["parameter_bytes"]
        side.tokens = int(side.name[5:]) if short else case.length
        _put_floor(side, case, Setting(), rates)
    result.sides[0].peak_bytes = found["peak"]
    return result
