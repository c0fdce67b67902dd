"""Time and memory against length: a Performer beside the identity line, Linformer's Table 3, a Fastformer's scaling.

Axes: B batch, N length, D width.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ... import models
from ...attention.favor.layer import FavorAttention
from ...benchmark.memory import peak_above
from ...benchmark.timing import interleave
from ...benchmark.work import training_step, without_gradients
from ...core.backend import use_backend
from ..claim import Measurement, Plot, Setting, figure

Lines = dict[str, list[tuple[float, float]]]
SLOW = ("exact", "eager", "SDPA")  # what is left out once a call takes too long
TABLE3 = {  # time saved and memory saved, as printed: (n, k) -> both
    (512, 128): (1.5, 1.7), (512, 256): (1.3, 1.5), (1024, 128): (1.7, 3.0), (1024, 256): (1.6, 2.9), (2048, 128): (2.6, 6.1),
    (2048, 256): (2.4, 5.6), (4096, 128): (3.4, 14.0), (4096, 256): (3.2, 13.0),
}  # fmt: skip


class Identity(nn.Module):
    """In place of FAVOR+ in a layer: attention's answer is the values, the paper's "X" line."""

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> Tensor:
        return values


def performer(setting: Setting) -> Measurement:
    """A training step of one layer at the paper's width."""
    common: dict[str, Any] = dict(dim=512, depth=1, heads=8, causal=False)
    lengths = _lengths(setting, 13)

    def build() -> dict[str, nn.Module]:
        ideal = models.Performer(models.PerformerConfig(**common, features=256))
        for module in ideal.modules():
            if isinstance(module, FavorAttention):
                module.favor = Identity()  # type: ignore[assignment]
        return {
            "Performer": models.Performer(models.PerformerConfig(**common, features=256)),
            "identity": ideal,
            "exact": models.Transformer(models.TransformerConfig(**common)),
        }

    lines = _training(build, lengths, setting, width=512)
    longest = lengths[-1]
    times = {name: dict(points) for name, points in lines.items()}
    return Measurement(
        numbers={
            "slope": slope(lines["Performer"]),
            "slope of exact attention": slope(lines["exact"]),
            "over identity": times["Performer"][longest] / times["identity"][longest],
        },
        **_table(lines, "identity"),
        setup=f"one layer of 8 heads, width 512, inner width 2,048, M = 256, forward and backward, {_threads()}, float32; "
        "CPU time of all threads, of interleaved rounds the least",
    )


def fastformer(setting: Setting) -> Measurement:
    """A training step of two layers at the size of the authors' notebook."""
    common: dict[str, Any] = dict(dim=256, depth=2, heads=16, ff_mult=1.0, causal=False)
    lengths = _lengths(setting, 14)

    def build() -> dict[str, nn.Module]:
        return {
            "Fastformer": models.Fastformer(models.FastformerConfig(**common)),
            "exact": models.Transformer(models.TransformerConfig(**common)),
        }

    lines = _training(build, lengths, setting, width=256)
    times = {name: dict(points) for name, points in lines.items()}
    last = max(times["exact"])
    return Measurement(
        numbers={
            "slope": slope(lines["Fastformer"]),
            "slope of exact attention": slope(lines["exact"]),
            "exact over Fastformer": times["exact"][last] / times["Fastformer"][last],
        },
        **_table(lines, "Fastformer"),
        setup=f"two layers of 16 heads, width and inner width 256, forward and backward, {_threads()}, float32; "
        "CPU time of all threads, of interleaved rounds the least",
    )


def linformer_table3(setting: Setting) -> Measurement:
    """Forward passes without gradients, time and peak memory of each side; once for all claims that ask."""
    return _table3(setting.effort >= 1, torch.get_num_threads())


@cache
def _table3(full: bool, threads: int) -> Measurement:
    lengths, part = (512, 1024, 2048, 4096), 1 if full else 16  # in tests a sixteenth of everything
    times: Lines = {}
    memory: dict[str, dict[int, float]] = {}
    for length in lengths:
        calls = _table3_sides(length, part)
        found = interleave(calls, rounds=5 if full else 1, least=2 if full else 1, budget=25.0, clock=time.process_time)
        for name, call in calls.items():
            times.setdefault(name, []).append((length, min(found.seconds[name])))
            peak = peak_above(call)
            memory.setdefault(name, {})[length] = math.nan if peak is None else max(peak["above"], 1)
    numbers: dict[str, float] = {}
    rows = []
    seconds = {name: dict(points) for name, points in times.items()}
    for length in lengths:
        for k in (128, 256):
            printed, name = TABLE3[length, k], f"k = {k}"
            faster = seconds["eager"][length] / seconds[name][length]
            smaller = memory["eager"][length] / memory[name][length]
            numbers[f"time, n = {length}, k = {k}"] = faster / printed[0]
            numbers[f"memory, n = {length}, k = {k}"] = smaller / printed[1]
            fused = seconds["SDPA"][length] / seconds[name][length], memory["SDPA"][length] / memory[name][length]
            rows.append([f"{length:,}", str(k), *map(figure, (faster, printed[0], fused[0], smaller, printed[1], fused[1]))])
    numbers["slope"] = slope(times["k = 256"][-3:])
    head = ["n", "k", "faster than eager", "printed", "faster than SDPA", "less memory than eager", "printed", "less memory than SDPA"]
    setup = (
        f"two layers of 12 heads, width 768, E = F shared by all layers, a batch of one, {_threads()}, float32; "
        "CPU time of all threads, of interleaved rounds the least"
    )
    plot = Plot(x="length n", y="CPU seconds of a forward pass", series=times, dashed=("eager", "SDPA"))
    return Measurement(numbers=numbers, columns=head, rows=rows, plot=plot, setup=setup)


def slope(points: list[tuple[float, float]]) -> float:
    """Of the logarithm of the second against that of the first, by least squares."""
    return statistics.linear_regression([math.log(x) for x, _ in points], [math.log(y) for _, y in points]).slope


def _table3_sides(length: int, part: int) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    length, width = length // part, 768 // part
    common: dict[str, Any] = dict(dim=width, depth=2, heads=12, causal=False, positions="learned")
    x = torch.randn(1, length, width)
    exact = models.Transformer(models.TransformerConfig(**common)).eval()
    calls: dict[str, Callable[[], object]] = {
        "eager": without_gradients(partial(_within, exact, x, SDPBackend.MATH)),
        "SDPA": without_gradients(partial(_within, exact, x, SDPBackend.FLASH_ATTENTION)),
    }
    for k in (128, 256):
        model = models.Linformer(models.LinformerConfig(**common, max_length=length, slots=k // part, share="layer")).eval()
        calls[f"k = {k}"] = without_gradients(partial(model, x))
    return calls


def _within(model: nn.Module, x: Tensor, backend: SDPBackend) -> Tensor:
    """PyTorch's attention by one of its ways; "math" forms the scores of all pairs."""
    with use_backend("torch"), sdpa_kernel(backend):
        return model(x)


def _training(build: Callable[[], dict[str, nn.Module]], lengths: list[int], setting: Setting, *, width: int) -> Lines:
    """CPU seconds of a step on one sequence, of interleaved rounds the least."""
    torch.manual_seed(0)
    sides = build()
    lines: Lines = {}
    for length in lengths:
        x = torch.randn(1, length, width)
        calls = {name: training_step(model, partial(_mean_square, model, x)) for name, model in sides.items()}
        found = interleave(calls, rounds=setting.scaled(9), least=setting.scaled(3), budget=25.0, cap=15.0, clock=time.process_time)
        for name, seconds in found.seconds.items():
            lines.setdefault(name, []).append((length, min(seconds)))  # other programs only make it longer
        for name in found.dropped:
            sides.pop(name)
    return lines


def _mean_square(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def _lengths(setting: Setting, last: int) -> list[int]:
    """Powers of two from 1,024; only small ones for tests."""
    return [2**power for power in range(10, last + 1)] if setting.effort >= 1 else [64, 128]


def _table(lines: Lines, base: str) -> dict[str, Any]:
    """Rows by length, and a plot."""
    times = {name: dict(points) for name, points in lines.items()}

    def cell(name: str, length: float) -> str:
        return "-" if length not in times[name] else f"{1e3 * times[name][length]:,.1f}"

    rows = [[f"{length:,.0f}", *(cell(name, length) for name in lines)] for length in times[base]]
    plot = Plot(x="length", y="CPU seconds of a step", series=lines, dashed=tuple(name for name in lines if name in (*SLOW, "identity")))
    return {"columns": ["length", *(f"{name}, ms" for name in lines)], "rows": rows, "plot": plot}


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' * (count != 1)}"
