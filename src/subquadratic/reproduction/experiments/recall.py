"""Associative recall: what a state of a given size can hold, without any training.

Axes: B batch, H heads, N pairs or length, K key width, M features, V value width.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...attention.favor.features import orthogonal_gaussian
from ...attention.favor.sharp import favor_attention
from ...attention.gated_linear.op import gated_linear_attention
from ..claim import Measurement, Plot, Setting, figure
from .controls import spread
from .speed import slope

CODES = 64  # different values
VALUE_WIDTH = 64
ENOUGH = 0.9  # of the pairs recalled
WIDTHS = (16, 32, 64, 128)  # of keys
FEATURES = (64, 128, 256, 512)
DRAWS = 24  # for each seed
SEEDS = 5
Recall = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]


def linear(keys: Tensor, values: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Linear attention without decay: a sum of k v^T, read with the keys: (1, 1, N, K), (1, 1, N, V) -> (1, 1, N, V)."""
    queries = torch.cat((keys.new_zeros(keys.shape), keys), dim=2)  # first all pairs, then all questions
    none = torch.zeros_like(keys)
    still = torch.zeros(1, 1, queries.shape[2], 1, dtype=keys.dtype)
    y, _ = gated_linear_attention(queries, torch.cat((keys, none), dim=2), torch.cat((values, values.new_zeros(values.shape)), 2), still)
    return y[:, :, keys.shape[2] :]


def favor(keys: Tensor, values: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """FAVOR+ with `size` features, whose state is so many sums of values."""
    projection = orthogonal_gaussian(size, keys.shape[-1], generator=generator, dtype=keys.dtype)
    return favor_attention(keys, keys, values, projection)


def state_size(setting: Setting) -> Measurement:
    """How many random pairs are recalled through states of several sizes, without any training."""
    ways = {
        "linear attention, key width": [(float(k), _capacities(linear, k, setting, width=k)) for k in WIDTHS],
        "FAVOR+, features": [(float(m), _capacities(favor, m, setting, width=16, length=4.0)) for m in FEATURES],
    }
    lines = {name: [(x, statistics.fmean(found)) for x, found in way] for name, way in ways.items()}
    slopes = {name: [slope([(x, found[i]) for x, found in way]) for i in range(SEEDS)] for name, way in ways.items()}
    linear_slope, favor_slope = map(spread, slopes.values())
    line = lines["linear attention, key width"]
    through = [(x, line[-1][1] * x / line[-1][0]) for x, _ in line]
    return Measurement(
        numbers={
            "linear slope": linear_slope[0],
            "favor slope": favor_slope[0],
            "pairs per key channel": statistics.fmean(y / x for x, y in line),
        },
        margins={"linear slope": linear_slope[1], "favor slope": favor_slope[1]},
        columns=["state", "size", "pairs recalled", "with each seed"],
        rows=[
            [name.partition(", ")[0], f"{size:.0f}", figure(statistics.fmean(found)), ", ".join(map(figure, found))]
            for name, way in ways.items()
            for size, found in way
        ],
        plot=Plot(x="size of the state", y="pairs recalled", series={**lines, "proportional": through}, dashed=("proportional",)),
        setup=(
            f"pairs of a random key and one of {CODES} random values of width {VALUE_WIDTH}; the most of which {ENOUGH:.0%} are decoded "
            f"right, over {setting.scaled(DRAWS, least=4)} draws for each of {SEEDS} seeds; FAVOR+ with keys of width 16 and length 4"
        ),
    )


def _capacities(recall: Recall, size: int, setting: Setting, *, width: int, length: float = 1.0) -> list[float]:
    return [capacity(recall, size, replace(setting, seed=SEEDS * setting.seed + i), width=width, length=length) for i in range(SEEDS)]


def capacity(recall: Recall, size: int, setting: Setting, *, width: int, length: float = 1.0) -> float:
    """The number of pairs at which the share recalled falls below `ENOUGH`, between two numbers a quarter apart."""
    before = (0.0, 1.0)
    pairs = 2.0
    while pairs < 16 * max(WIDTHS):
        share = statistics.fmean(
            _share(recall, round(pairs), size, width, length, setting.seed, draw) for draw in range(setting.scaled(DRAWS, least=4))
        )
        if share < ENOUGH:
            part = (before[1] - ENOUGH) / (before[1] - share)
            return before[0] + part * (pairs - before[0])
        before, pairs = (pairs, share), pairs * 1.25
    return pairs


def _share(recall: Recall, pairs: int, size: int, width: int, length: float, seed: int, draw: int) -> float:
    generator = torch.Generator().manual_seed(1_000_000 * seed + 1000 * pairs + draw)
    keys = torch.randn(1, 1, pairs, width, generator=generator)
    keys = keys * (length / keys.norm(dim=-1, keepdim=True))
    codes = torch.randn(CODES, VALUE_WIDTH, generator=generator)
    codes = codes / codes.norm(dim=1, keepdim=True)
    chosen = torch.randint(CODES, (pairs,), generator=generator)
    found = recall(keys, codes[chosen][None, None], size, generator)[0, 0]
    return float(((found @ codes.T).argmax(dim=1) == chosen).float().mean())
