"""What several claims ask for is measured once: the part of an experiment that `shared` marks, and what it cost."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from .claim import Setting

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(kw_only=True)
class Cost:
    """Seconds, as a clock says and of all threads."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(seconds=self.seconds + other.seconds, cpu_seconds=self.cpu_seconds + other.cpu_seconds)


_earlier: ContextVar[Cost | None] = ContextVar("earlier", default=None)


@contextmanager
def counting() -> Iterator[Cost]:
    """What earlier calls spent on that which calls within found ready."""
    cost = Cost()
    token = _earlier.set(cost)
    try:
        yield cost
    finally:
        _earlier.reset(token)


def shared(function: Callable[Concatenate[Setting, P], R]) -> Callable[Concatenate[Setting, P], R]:
    """A function that is called once for each seed, effort, number of threads and further arguments, and then remembered.

    Where the next call wants it to speak, it speaks: `Setting.say` is no part of what is remembered. Alter nothing that it returns.
    `cache_clear()` forgets everything.
    """
    found: dict[Any, tuple[R, Cost]] = {}

    @functools.wraps(function)
    def once(setting: Setting, *args: P.args, **options: P.kwargs) -> R:
        key = (setting, torch.get_num_threads(), args, tuple(sorted(options.items())))
        if key in found:
            value, whole = found[key]
            _note(whole)
            return value
        began, used = time.perf_counter(), time.process_time()
        with counting() as earlier:
            value = function(setting, *args, **options)
        own = Cost(seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - used)
        found[key] = value, own + earlier
        _note(earlier)
        return value

    once.cache_clear = found.clear  # type: ignore[attr-defined]
    return once


def _note(cost: Cost) -> None:
    earlier = _earlier.get()
    if earlier is not None:
        earlier.seconds += cost.seconds
        earlier.cpu_seconds += cost.cpu_seconds
