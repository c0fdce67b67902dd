"""Linformer's Table 3: forward passes without gradients, time and peak memory beside exact attention, eager and fused.

Axes: N length, D width, R slots.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ... import models
from ...attention.low_rank.layer import LowRankAttention
from ...benchmark.memory import peak_above
from ...benchmark.timing import interleave
from ...benchmark.work import without_gradients
from ...core.backend import use_backend
from ..claim import Measurement, Plot, Setting, figure
from .low_rank import difference_of
from .speed import Lines, slope, threads_used

PRINTED = {  # time saved and memory saved, as printed: (n, k) -> both
    (512, 128): (1.5, 1.7), (512, 256): (1.3, 1.5),
    (1024, 128): (1.7, 3.0), (1024, 256): (1.6, 2.9), (1024, 512): (1.3, 1.8),
    (2048, 128): (2.6, 6.1), (2048, 256): (2.4, 5.6), (2048, 512): (2.1, 3.6), (2048, 1024): (1.3, 2.0),
    (4096, 128): (3.4, 14.0), (4096, 256): (3.2, 13.0), (4096, 512): (2.8, 8.3), (4096, 1024): (2.2, 4.3), (4096, 2048): (1.3, 2.3),
}  # fmt: skip
LENGTHS = sorted({length for length, _ in PRINTED})
EXACT = ("eager", "SDPA")
NO_PEAKS = "this system does not tell the peak of a process's memory (/proc/self/clear_refs)"
_found: dict[tuple[bool, int], tuple[Lines, Lines, float]] = {}


def times(setting: Setting) -> Measurement:
    """How many times as fast as either exact attention."""
    seconds, _, difference = _measured(setting)
    numbers = {"difference": difference, "slope": slope(seconds["k = 256"][-3:])}
    return _measurement(numbers, "time", seconds, "faster than", "CPU seconds of a forward pass")


def memory(setting: Setting) -> Measurement:
    """How many times less memory than either."""
    _, peaks, difference = _measured(setting)
    if any(math.isnan(peak) for line in peaks.values() for _, peak in line):
        return Measurement(unavailable=NO_PEAKS)
    return _measurement({"difference": difference}, "memory", peaks, "less memory than", "bytes of a forward pass")


def _measurement(numbers: dict[str, float], kind: str, lines: Lines, words: str, axis: str) -> Measurement:
    rows = []
    found = {name: dict(points) for name, points in lines.items()}
    for (length, k), both in PRINTED.items():
        printed, ours = both[kind == "memory"], found[f"k = {k}"][length]
        eager, fused = (found[name][length] / ours for name in EXACT)
        numbers |= {f"{kind}, n = {length}, k = {k}": eager / printed, f"over SDPA, n = {length}, k = {k}": fused}
        rows.append([f"{length:,}", str(k), *map(figure, (eager, printed, fused))])
    return Measurement(
        numbers=numbers,
        columns=["n", "k", f"{words} eager", "printed", f"{words} SDPA"],
        rows=rows,
        plot=Plot(x="length n", y=axis, series=lines, dashed=EXACT),
        setup=(
            f"two layers of 12 heads, width 768, E = F shared by all layers, a batch of one, {threads_used()}, float32; "
            "CPU time of all threads, of interleaved rounds the least; memory of one pass above what was there before, median of several"
        ),
    )


def _measured(setting: Setting) -> tuple[Lines, Lines, float]:
    """CPU seconds and bytes of each side, and what Linformer's layer is off its equation by. Once for all claims that ask."""
    key = setting.effort >= 1, torch.get_num_threads()
    if key not in _found:
        _found[key] = _measure(full=key[0], say=setting.say)
    return _found[key]


def _measure(*, full: bool, say: Callable[[str], None]) -> tuple[Lines, Lines, float]:
    part = 1 if full else 16  # in tests a sixteenth of everything
    seconds: Lines = {}
    peaks: Lines = {}
    difference = math.nan
    for length in LENGTHS:
        say(f"{length:,} positions")
        calls, difference = _sides(length, part)
        readings = interleave(calls, rounds=5 if full else 1, least=2 if full else 1, budget=20.0, clock=time.process_time)
        for name, call in calls.items():
            seconds.setdefault(name, []).append((length, min(readings.seconds[name])))
            repeated = [peak_above(call) for _ in range(max(3, 2048 // length) if full else 1)]
            above = [math.nan if peak is None else max(peak["above"], 1) for peak in repeated]
            peaks.setdefault(name, []).append((length, statistics.median(above)))
    return seconds, peaks, difference


def _sides(length: int, part: int) -> tuple[dict[str, Callable[[], object]], float]:
    torch.manual_seed(0)
    slots = [k for n, k in PRINTED if n == length]
    length, width = length // part, 768 // part
    common: dict[str, Any] = dict(dim=width, depth=2, heads=12, causal=False, positions="learned")
    x = torch.randn(1, length, width)
    exact = models.Transformer(models.TransformerConfig(**common)).eval()
    calls: dict[str, Callable[[], object]] = {
        "eager": without_gradients(partial(_within, exact, x, SDPBackend.MATH)),
        "SDPA": without_gradients(partial(_within, exact, x, SDPBackend.FLASH_ATTENTION)),
    }
    for k in slots:
        model = models.Linformer(models.LinformerConfig(**common, max_length=length, slots=k // part, share="layer")).eval()
        calls[f"k = {k}"] = without_gradients(partial(model, x))
    layer = next(module for module in model.modules() if isinstance(module, LowRankAttention))
    weights = torch.randn(min(length, 512), 128 // part) / length**0.5
    return calls, difference_of(layer, weights)


def _within(model: nn.Module, x: Tensor, backend: SDPBackend) -> Tensor:
    """PyTorch's attention by one of its ways; "math" forms the scores of all pairs."""
    with use_backend("torch"), sdpa_kernel(backend):
        return model(x)
