"""Linformer's quality by the number of slots and by sharing: hidden tokens of rows whose second half is the first again.

Without attention nothing is known of a hidden token; with it, a token is known whose other copy is seen.

Axes: B batch, N length.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ... import models
from ...heads.language_model import LanguageModel
from ...heads.quantization import parameter_count
from ..claim import Measurement, Plot, Setting
from ..shared import shared
from .controls import spread, without_attention_
from .sequences import halves
from .training import Done, Plan, seeded, train

LENGTH, BATCH, STEPS, SEEDS = 64, 32, 800, 3
SYMBOLS = 32
SIZES: dict[str, Any] = dict(dim=64, depth=2, heads=4, causal=False, positions="learned")
EXACT, CONTROL = "exact attention", "without attention"


@shared
def _trained(setting: Setting, name: str) -> tuple[float, Done, int]:
    """Loss in nats of hidden tokens of new rows, the run, and the parameters; `name`: "k = 8, share = kv" and the like, or exact attention,
    or the control."""
    model = seeded(setting, LanguageModel, _config(name), vocab_size=SYMBOLS, max_length=LENGTH)
    if name == CONTROL:
        without_attention_(model)
    hiding = torch.Generator().manual_seed(setting.seed)

    def rows(count: int, seed: int) -> Tensor:
        return halves(count, LENGTH, seed=seed, symbols=SYMBOLS)

    def batch(step: int) -> dict[str, Any]:
        return {"tokens": rows(plan.batch, 10_000 * (setting.seed + 1) + step), "generator": hiding}

    plan = Plan(steps=setting.scaled(STEPS, least=2), batch=setting.scaled(BATCH, least=2), rate=3e-3)
    done = train(model, batch, plan, setting, name=f"{name}, seed {setting.seed},")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)  # the same rows and hidden tokens for all
        losses = [float(model.loss(rows(256, i), generator=generator)) for i in range(setting.scaled(8))]
    return sum(losses) / len(losses), done, parameter_count(model)


def _config(name: str) -> Any:
    if name in (EXACT, CONTROL):
        return models.TransformerConfig(**SIZES)
    slots, _, share = name.removeprefix("k = ").partition(", share = ")
    return models.LinformerConfig(**SIZES, max_length=LENGTH, slots=int(slots), share=share or "none")


def by_count(setting: Setting) -> Measurement:
    """More slots, up to a quarter of the length, beside exact attention."""
    counts = (4, 16)
    runs = _runs(setting, (*(f"k = {k}" for k in counts), EXACT, CONTROL))
    found = _told(
        setting,
        runs,
        {
            "least less a quarter": ("k = 4", "k = 16"),
            "gap to exact": ("k = 16", EXACT),
            "attention": (CONTROL, EXACT),
        },
    )
    line = [(float(k), found.numbers[f"k = {k}"]) for k in counts]
    series = {"Linformer": line} | {name: [(float(k), found.numbers[name]) for k in counts] for name in (EXACT, CONTROL)}
    found.plot = Plot(x="slots k", y="loss, nats per hidden token", series=series, y_log=False, dashed=(EXACT, CONTROL))
    return found


def sharing(setting: Setting) -> Measurement:
    """One projection for keys and values, and one for all layers, beside two in each."""
    none, kv, layer = (f"k = 16{share}" for share in ("", ", share = kv", ", share = layer"))
    return _told(
        setting, _runs(setting, (none, kv, layer, CONTROL)), {"kv": (kv, none), "layer": (layer, none), "attention": (CONTROL, none)}
    )


def _runs(setting: Setting, names: tuple[str, ...]) -> dict[str, list[tuple[float, Done, int]]]:
    return {name: [_trained(replace(setting, seed=setting.seed + i), name) for i in range(SEEDS)] for name in names}


def _told(setting: Setting, runs: dict[str, list[tuple[float, Done, int]]], pairs: dict[str, tuple[str, str]]) -> Measurement:
    """Losses, and by name the differences of pairs, seed by seed."""
    losses = {name: [loss for loss, _, _ in many] for name, many in runs.items()}
    found = {name: spread(values) for name, values in losses.items()}
    found |= {key: spread([a - b for a, b in zip(losses[more], losses[less], strict=True)]) for key, (more, less) in pairs.items()}
    return Measurement(
        numbers={key: mean for key, (mean, _) in found.items()},
        margins={key: margin for key, (_, margin) in found.items()},
        columns=["model", "parameters", *(f"loss, seed {setting.seed + i}" for i in range(SEEDS)), "training"],
        rows=[
            [name, f"{many[0][2]:,}", *(f"{loss:.3f}" for loss in losses[name]), f"{sum(done.seconds for _, done, _ in many):.0f} s"]
            for name, many in runs.items()
        ],
        setup=(
            f"rows of {LENGTH} of {SYMBOLS} symbols, whose second half is the first again, 15% hidden, loss in nats per hidden token; "
            f"width 64, 2 layers of 4 heads, learned positions; {setting.scaled(STEPS, least=2):,} steps of {BATCH} rows; {SEEDS} seeds"
        ),
    )
