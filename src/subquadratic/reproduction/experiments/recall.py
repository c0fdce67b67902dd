"""Associative recall: what a state of a given size can hold, and what trained models look up.

Axes: B batch, H heads, N pairs or length, K key width, M features, V value width.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import models
from ...attention.favor.features import orthogonal_gaussian
from ...attention.favor.sharp import favor_attention
from ...attention.gated_linear.op import gated_linear_attention
from ...costs.cost import parameter_count
from ...data.tasks import make_task
from ...heads.language_model import LanguageModel
from ..claim import Measurement, Plot, Setting, figure
from .speed import slope
from .tasks import accuracy, batches, solved
from .training import Plan, seeded, train

CODES = 64  # different values
VALUE_WIDTH = 64
ENOUGH = 0.9  # of the pairs recalled
WIDTHS = (16, 32, 64, 128)  # of keys
FEATURES = (64, 128, 256, 512)
DRAWS = 48
KEYS = 32  # and as many values, of the trained models' task
SYMBOLS = 1 + 2 * KEYS
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
    lines = {
        "linear attention, key width": [(float(k), capacity(linear, k, setting, width=k)) for k in WIDTHS],
        "FAVOR+, features": [(float(m), capacity(favor, m, setting, width=16, length=4.0)) for m in FEATURES],
    }
    rows = [[name.partition(", ")[0], f"{size:.0f}", figure(pairs)] for name, line in lines.items() for size, pairs in line]
    line = lines["linear attention, key width"]
    through = [(x, line[-1][1] * x / line[-1][0]) for x, _ in line]
    return Measurement(
        numbers={
            "linear slope": slope(line),
            "favor slope": slope(lines["FAVOR+, features"]),
            "pairs per key channel": statistics.fmean(y / x for x, y in line),
        },
        columns=["state", "size", "pairs recalled"],
        rows=rows,
        plot=Plot(x="size of the state", y="pairs recalled", series={**lines, "proportional": through}, dashed=("proportional",)),
        setup=(
            f"pairs of a random key and one of {CODES} random values of width {VALUE_WIDTH}; the most of which {ENOUGH:.0%} are decoded "
            f"right, over {setting.scaled(DRAWS, least=4)} draws; FAVOR+ with keys of width 16 and length 4"
        ),
    )


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


def configs(length: int) -> dict[str, Any]:
    """Causal models of about the same size, by name."""
    common: dict[str, Any] = dict(dim=64, depth=2, heads=2)
    return {
        "exact attention": models.TransformerConfig(**common),
        "Performer": models.PerformerConfig(**common, features=64),
        "gated linear": models.GatedLinearConfig(**common),
        "Linformer": models.LinformerConfig(**common, max_length=length, slots=16),
        "Fastformer": models.FastformerConfig(**common),
    }


def trained(setting: Setting) -> Measurement:
    """Models trained to recall 4 and 16 pairs from 64 tokens."""
    length, plan = 64, Plan(steps=setting.scaled(1500, least=2), batch=setting.scaled(64, least=2), rate=3e-3, every=150)
    numbers, found = {}, {}
    for pairs in (4, 16):
        task = make_task("recall", length=length, pairs=pairs, keys=KEYS, values=KEYS, seed=setting.seed)
        for name, config in configs(length).items():
            model = seeded(setting, LanguageModel, config, vocab_size=SYMBOLS, max_length=length)
            until = solved(model, task, setting, enough=0.998)
            done = train(model, batches(task, plan.batch), plan, setting, until=until, name=f"{name}, {pairs} pairs,")
            found[name, pairs] = accuracy(model, task, setting), done, parameter_count(model), _state_numbers(model)
            numbers[f"{name}, {pairs} pairs"] = found[name, pairs][0]
    rivals = [name for name in configs(length) if name != "exact attention"]
    numbers["best of the others, 16 pairs"] = max(numbers[f"{name}, 16 pairs"] for name in rivals)
    numbers["exact less Fastformer, 16 pairs"] = numbers["exact attention, 16 pairs"] - numbers["Fastformer, 16 pairs"]
    rows = []
    for name in configs(length):
        score, steps = [found[name, p][0] for p in (4, 16)], [len(found[name, p][1].losses) for p in (4, 16)]
        rows.append(
            [
                name,
                f"{found[name, 4][2]:,}",
                f"{found[name, 4][3]:,}",
                *(f"{s:.1%} ({n:,} steps)" for s, n in zip(score, steps, strict=True)),
            ]
        )
    return Measurement(
        numbers=numbers,
        columns=["model", "parameters", "numbers in the state", "4 pairs", "16 pairs"],
        rows=rows,
        plot=Plot(
            x="step", y="training loss, nats, 16 pairs", x_log=False,
            series={name: found[name, 16][1].curve() for name in configs(length)},
        ),
        setup=(
            f"{length} tokens, {KEYS} keys, {KEYS} values, each pair asked for once; width 64, 2 layers of 2 heads; at most "
            f"{plan.steps:,} steps "
            f"of {plan.batch} sequences, none twice, ended at 99.8%"
        ),
    )  # fmt: skip


def _state_numbers(model: LanguageModel) -> int:
    """What is carried from token to token after 64, in numbers of 4 bytes."""
    with torch.no_grad():
        _, state = model.extend(torch.ones(1, 63, dtype=torch.int64), model.init_state(1))
    return math.ceil(state.nbytes() / 4)
