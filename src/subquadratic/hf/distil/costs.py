"""Time and memory of teacher and student against the length: the whole model as far as it goes, and one attention layer further.

Axes: H heads of queries, J heads of keys, N length, K head width.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from .layerwise import body, without_cache
from .models import Pair

FIRST, LAST = 128, 16384  # tokens
REPEATS = 3
PATIENCE = 2.0  # seconds: what takes longer than that is not measured at twice the length
SDPA = "sdpa"
Peak = Callable[[Callable[[], object]], int | None]
"""Bytes that a call takes for a while; None where the system does not tell."""


def model_costs(pair: Pair, peak: Peak, longest: int = LAST) -> list[dict[str, Any]]:
    """Rows of a single sequence through the whole model, up to the longest that it takes."""
    rows = []
    for length in _lengths(min(pair.length, longest)):
        inputs = {"input_ids": torch.full((1, length), 5), "attention_mask": torch.ones(1, length, dtype=torch.int64)}
        calls = [_forward(model, inputs) for model in (pair.teacher, pair.student)]
        rows.append(_row(length, calls, peak))
        if max(rows[-1]["exact_seconds"], rows[-1]["seconds"]) > PATIENCE:
            break
    return rows


def attention_costs(pair: Pair, peak: Peak, longest: int = LAST) -> list[dict[str, Any]]:
    """Rows of one attention layer alone, without its maps."""
    module = pair.student.get_submodule(pair.attention[0])
    config: Any = pair.student.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    rows = []
    for length in _lengths(longest):
        generator = torch.Generator().manual_seed(length)
        tensors = [torch.randn(1, count, length, width, generator=generator) for count in (heads, groups, groups)]
        calls = [_attend(name, module, tensors) for name in (SDPA, config._attn_implementation)]
        rows.append(_row(length, calls, peak))
        if max(rows[-1]["exact_seconds"], rows[-1]["seconds"]) > PATIENCE:
            break
    return rows


def _lengths(most: int) -> list[int]:
    return [FIRST << power for power in range(20) if FIRST << power <= most] or [most]


def _forward(model: Any, inputs: dict[str, Tensor]) -> Callable[[], object]:
    part = body(model)
    return lambda: part(**inputs, **without_cache(part))


def _attend(name: str, module: Any, tensors: list[Tensor]) -> Callable[[], object]:
    function: Any = AttentionInterface()[name]
    return lambda: function(module, *tensors, None, dropout=0.0, scaling=tensors[0].shape[-1] ** -0.5)


def _row(length: int, calls: list[Callable[[], object]], peak: Peak) -> dict[str, Any]:
    with torch.no_grad():
        for call in calls:
            call()
        times: list[list[float]] = [[], []]
        for _ in range(REPEATS):  # in turns, so that what else the machine does meets both
            for place, call in enumerate(calls):
                started = time.perf_counter()
                call()
                times[place].append(time.perf_counter() - started)
        exact, ours = (peak(call) for call in calls)
    return {"length": length, "exact_seconds": min(times[0]), "seconds": min(times[1]), "exact_bytes": exact, "bytes": ours}
