"""What the models are meant to reach, and whether they do.

Two CPU cores, float32, byte vocabulary, 256 wide, 4 layers, 4 heads of 64, 266 features, 256 slots, one sequence unless said; ratios are
medians of interleaved rounds in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import growth
from .cases import BACK
from .results import Result, Run
from .suites import BESIDE_MILLION, MILLION
from .timing import median

SLOPE_FROM = 4096  # lengths from here on count


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure that a run should give.

    Attributes:
        text: what is asked.
        bound: the figure.
        at_most: whether it may not be exceeded; otherwise it must be reached.
        value: from a run, None where it was not measured.
        write: a figure in words.
        reachable: the figure at 100 % of the floor, where there is one.
        cuda: only on a GPU.
    """

    text: str
    bound: float
    at_most: bool
    value: Callable[[Run], float | None]
    write: Callable[[float], str]
    reachable: Callable[[Run], float | None] | None = None
    cuda: bool = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A target beside what was measured; `met` is None where nothing was."""

    target: Target
    value: float | None
    met: bool | None
    reachable: float | None


def judge(run: Run) -> list[Verdict]:
    """All targets that hold for the run's device."""
    cuda = str(run.settings.get("device", "cpu")).startswith("cuda")
    verdicts = []
    for target in TARGETS:
        if target.cuda != cuda:
            continue
        value = target.value(run)
        met = None if value is None else (value <= target.bound if target.at_most else value >= target.bound)
        reachable = target.reachable(run) if target.reachable is not None and met is False else None
        verdicts.append(Verdict(target=target, value=value, met=met, reachable=reachable))
    return verdicts


def slope(run: Run, side: str) -> float | None:
    """Of log(time of a training step) against log(length), over the lengths from 4,096 on; None for fewer than three."""
    return growth.slope([point for point in growth.curves(run, growth.LINES["length"]).get(side, []) if point[0] >= SLOPE_FROM])


def _times(value: float) -> str:
    return f"{value:,.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _faster(text: str, case: str, other: str, bound: float, *, ours: str | None = None, cuda: bool = False) -> Target:
    """Of the case's first side, or the one named; of the other case where this one was not measured, if there are two names."""

    def found(run: Run) -> Result | None:
        return next((result for name in case.split() if (result := _found(run, name)) is not None), None)

    def value(run: Run) -> float | None:
        result = found(run)
        return None if result is None or not (ratios := result.ratios(other, ours)) else median(ratios)

    def reachable(run: Run) -> float | None:
        ratio, result = value(run), found(run)
        side = None if result is None else result.sides[0] if ours is None else result.side(ours)
        share = None if side is None else side.share_of_floor
        return None if ratio is None or not share else ratio / share

    return Target(text=text, bound=bound, at_most=False, value=value, write=_times, reachable=reachable, cuda=cuda)


def _lighter(text: str, case: str, other: str, bound: float) -> Target:
    def value(run: Run) -> float | None:
        found = _found(run, case)
        theirs = None if found is None else found.side(other)
        if found is None or theirs is None or theirs.above_bytes is None or not found.sides[0].above_bytes:
            return None
        return theirs.above_bytes / found.sides[0].above_bytes

    return Target(text=text, bound=bound, at_most=False, value=value, write=lambda value: f"1/{value:.1f}")


def _floor(text: str, case: str, bound: float, *, cuda: bool = False) -> Target:
    def value(run: Run) -> float | None:
        found = _found(run, case)
        return None if found is None else found.sides[0].share_of_floor

    return Target(text=text, bound=bound, at_most=False, value=value, write=_percent, cuda=cuda)


def _constant(name: str) -> Target:
    def value(run: Run) -> float | None:
        found = _found(run, f"model/{name}/decode/100000")
        return None if found is None or not (ratios := found.ratios("self@100")) else abs(1 / median(ratios) - 1)

    text = f"causal {name}, a token after 100,000 tokens against one after 100: difference"
    return Target(text=text, bound=0.1, at_most=True, value=value, write=_percent)


def _slope(name: str) -> Target:
    text = f"causal {name}, slope of log time against log length, training step, 4k to 64k"
    return Target(text=text, bound=1.05, at_most=True, value=lambda run: slope(run, name), write=lambda value: f"{value:.3f}")


def _found(run: Run, name: str) -> Result | None:
    found = run.find(name)
    return None if found is None or found.refused or not found.sides else found


def _million_per_token(run: Run) -> float | None:
    found = _found(run, _MILLION)
    short = None if found is None else found.side(f"self@{BESIDE_MILLION}")
    if found is None or short is None or not short.per_token or not found.sides[0].per_token:
        return None
    return found.sides[0].per_token / short.per_token  # once, against the mean of the one before and the one after


def _million_peak(run: Run) -> float | None:
    found = _found(run, _MILLION)
    return None if found is None else found.sides[0].peak_bytes


def _import_time(run: Run) -> float | None:
    found = _found(run, "import/subquadratic")
    return None if found is None or len(found.sides) < 2 else found.sides[1].time


_MILLION = f"million/performer/train/{MILLION}"
_BOTH = (("linformer", 1.6, 0.75), ("performer", 1.5, 0.6), ("fastformer", 1.7, 0.6))
_LONG_BOTH = f"model/linformer{BACK}/train/16384"
_LONG = (
    ("performer", "causal Performer", "model/performer/train/16384 lengths/train/16384", 4.5),
    (f"linformer{BACK}", f"linformer{BACK}", _LONG_BOTH, 12.0),
    (f"fastformer{BACK}", f"fastformer{BACK}", _LONG_BOTH, 14.0),
)
_PERCEIVER, _FEEDBACK = "model/perceiver_ar/train/4096", "model/feedback_transformer/train/256"
TARGETS = (
    _faster("causal Performer, training step, N = 2,048, against performer-pytorch", "model/performer/train/2048", "published", 10),
    _lighter("the same, peak memory above the weights", "model/performer/train/2048", "published", 12),
    _faster("causal Performer, a new token after 2,048, against its generate", "model/performer/decode/2048", "published", 400),
    *(_constant(name) for name in ("performer", "linformer", "fastformer")),
    *(
        _faster(f"{name}{BACK}, training step, N = 4,096, against the published", f"model/{name}{BACK}/train/4096", "published", ratio)
        for name, ratio, _ in _BOTH
    ),
    _faster("perceiver_ar (3/4 prefix), training step, N = 4,096, against the published", _PERCEIVER, "published", 1.6),
    *(_floor(f"{name}{BACK}, the same: share of the floor", f"model/{name}{BACK}/train/4096", share) for name, _, share in _BOTH),
    _floor("perceiver_ar, the same: share of the floor", _PERCEIVER, 0.75),
    _faster("feedback_transformer, training step, N = 256, against the published", _FEEDBACK, "published", 3.5),
    _faster("the same, 8 sequences", f"{_FEEDBACK}x8", "published", 4.5),
    *(
        _faster(f"{text}, training step, N = 16,384, against exact attention", case, "x-transformers", ratio, ours=name)
        for name, text, case, ratio in _LONG
    ),
    Target(
        text="causal Performer, one training step on 1,048,576 tokens, in checkpointed pieces: peak resident memory",
        bound=10e9, at_most=True,
        value=_million_peak, write=lambda value: f"{value / 1e9:.1f} GB",
    ),
    Target(
        text="the same, time per token over that at 65,536", bound=1.15, at_most=True, value=_million_per_token, write=_times,
    ),
    *(_slope(name) for name in ("performer", "linformer", "fastformer")),
    Target(
        text="import subquadratic and its models, beyond import torch",
        bound=0.15, at_most=True, value=_import_time, write=lambda value: f"{value:.3f} s",
    ),
    _faster("causal FAVOR+, forward and backward, N = 16,384, against fla", "op/favor/train/16384", "fla", 1.3, cuda=True),
    _faster("the same, against attention kernels", "op/favor/train/16384", "sdpa", 3.0, cuda=True),
    _floor("the same: share of the floor", "op/favor/train/16384", 0.45, cuda=True),
)  # fmt: skip
