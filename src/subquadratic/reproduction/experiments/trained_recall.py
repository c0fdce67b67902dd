"""Associative recall by trained models: how many pairs they look up, and how that follows the size of the state.

Axes: B batch, N length, K key width.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from typing import Any

import torch

from ... import models
from ...data.tasks import make_task
from ...heads.language_model import LanguageModel
from ...heads.quantization import parameter_count
from ..claim import Measurement, Plot, Setting
from .controls import leak, spread, without_attention_
from .tasks import accuracy, batches, solved
from .training import Done, Plan, seeded, train

LENGTH, PAIRS, FEW, BATCH, STEPS, SEEDS = 64, 16, 4, 64, 1000, 3
SYMBOLS = 32  # keys, and as many values
VOCABULARY = 1 + 2 * SYMBOLS
WIDTHS = (1, 2, 4, 8, 16)  # K of the sweep
SIZES: dict[str, Any] = dict(dim=64, depth=2, heads=2, token_shift=True)
CONTROL = "without attention"
FORMS: dict[str, Any] = {
    "exact attention": models.TransformerConfig(**SIZES),
    "Performer": models.PerformerConfig(**SIZES, features=64),
    "gated linear": models.GatedLinearConfig(**SIZES),
    "Linformer": models.LinformerConfig(**SIZES, max_length=LENGTH, slots=16),
    "Fastformer": models.FastformerConfig(**SIZES),
    CONTROL: models.TransformerConfig(**SIZES),
}


@dataclass(kw_only=True)
class Found:
    """A trained model: its share of answers right, its run, its sizes, and how far logits move when later tokens change."""

    accuracy: float
    done: Done
    parameters: int
    state: int
    leak: float


def trained(setting: Setting) -> Measurement:
    """Models trained to recall 4 and 16 pairs from 64 tokens; those that conditions are about with several seeds."""
    found = {(name, pairs): _trained(setting, name, config, pairs) for pairs in (FEW, PAIRS) for name, config in FORMS.items()}
    numbers = {f"{name}, {pairs} pairs": one.accuracy for (name, pairs), one in found.items()}
    seeds = {name: [found[name, PAIRS].accuracy] for name in ("exact attention", "Fastformer", CONTROL)}
    for i in range(1, SEEDS):
        for name, scores in seeds.items():
            scores.append(_trained(replace(setting, seed=setting.seed + i), name, FORMS[name], PAIRS).accuracy)
    margins = {}
    for key, less in {"exact less Fastformer": "Fastformer", "attention": CONTROL}.items():
        pairs = zip(seeds["exact attention"], seeds[less], strict=True)
        numbers[key], margins[key] = spread([exact - other for exact, other in pairs])
    numbers["exact attention, least of the seeds"] = min(seeds["exact attention"])
    sweep = {width: _trained(setting, f"K = {width}", models.GatedLinearConfig(**SIZES, key_dim=width), PAIRS) for width in WIDTHS}
    numbers["gain"] = statistics.fmean(sweep[width].accuracy for width in WIDTHS[-2:]) - sweep[WIDTHS[0]].accuracy
    every = [*found.values(), *sweep.values()]
    numbers["leak"] = max(one.leak for one in every)
    rows = [_row(name, found[name, FEW], found[name, PAIRS]) for name in FORMS]
    rows += [_row(f"gated linear, key width {width}", None, one) for width, one in sweep.items()]
    return Measurement(
        numbers=numbers,
        margins=margins,
        columns=["model", "parameters", "numbers in the state", f"{FEW} pairs", f"{PAIRS} pairs"],
        rows=rows,
        plot=Plot(
            x="numbers in the state",
            y=f"pairs recalled, of {PAIRS}",
            series={
                "gated linear, key widths 1 to 16": [(float(one.state), PAIRS * one.accuracy) for one in sweep.values()],
                "other models": sorted(
                    (float(one.state), PAIRS * one.accuracy) for (_, pairs), one in found.items() if pairs == PAIRS and one.state
                ),
                "one pair for each key channel": [(float(one.state), float(min(PAIRS, width))) for width, one in sweep.items()],
            },
            dashed=("one pair for each key channel",),
        ),
        setup=(
            f"{LENGTH} tokens, {SYMBOLS} keys, {SYMBOLS} values, each pair asked for once; width 64, 2 layers of 2 heads, half of the "
            f"channels shifted by a token; at most {setting.scaled(STEPS, least=2):,} steps of {BATCH} sequences, none twice, ended "
            f"at 99.8%; "
            f"exact attention, Fastformer and the control with {PAIRS} pairs from {SEEDS} seeds, the rest from one; what the theory "
            f"says is "
            "that K orthogonal keys are told apart without error"
        ),
    )


def _trained(setting: Setting, name: str, config: Any, pairs: int) -> Found:
    task = make_task("recall", length=LENGTH, pairs=pairs, keys=SYMBOLS, values=SYMBOLS, seed=setting.seed)
    plan = Plan(steps=setting.scaled(STEPS, least=2), batch=setting.scaled(BATCH, least=2), rate=3e-3)
    model = seeded(setting, LanguageModel, config, vocab_size=VOCABULARY, max_length=LENGTH)
    if name == CONTROL:
        without_attention_(model)
    until = solved(model, task, setting, enough=0.998)
    done = train(model, batches(task, plan.batch), plan, setting, until=until, name=f"{name}, {pairs} pairs, seed {setting.seed},")
    tokens = torch.randint(VOCABULARY, (4, LENGTH), generator=torch.Generator().manual_seed(0))
    return Found(
        accuracy=accuracy(model, task, setting),
        done=done,
        parameters=parameter_count(model),
        state=0 if name == CONTROL else _state_numbers(model),
        leak=leak(model, tokens, other=lambda late: (late + 1) % VOCABULARY),
    )


def _row(name: str, few: Found | None, many: Found) -> list[str]:
    scores = ["-" if one is None else f"{one.accuracy:.1%} ({len(one.done.losses):,} steps)" for one in (few, many)]
    return [name, f"{many.parameters:,}", f"{many.state:,}" if many.state else "-", *scores]


def _state_numbers(model: LanguageModel) -> int:
    """What is carried from token to token after 64, in numbers of 4 bytes."""
    with torch.no_grad():
        _, state = model.extend(torch.ones(1, LENGTH - 1, dtype=torch.int64), model.init_state(1))
    return math.ceil(state.nbytes() / 4)
