"""Classification that needs attention: how often the first token of a row comes again.

Axes: B batch, N length, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import models
from ...heads.sequence_classifier import SequenceClassifier
from ..claim import Measurement, Plot, Setting, figure
from ..shared import shared
from .additive import sum_raw_keys_
from .controls import leak, spread, without_attention_
from .sequences import counted
from .tasks import class_accuracy
from .training import Done, Plan, seeded, train

LENGTH, BATCH, STEPS, SEEDS = 64, 64, 400, 3
SYMBOLS = CLASSES = 8
CONTROL = "without attention"
SIZES: dict[str, Any] = dict(dim=64, depth=2, heads=4, positions="learned")


def build(name: str) -> SequenceClassifier:
    """A classifier by its name here: a model, with "causal" or "raw keys" in it perhaps, or the control."""
    causal = "causal" in name
    if "Fastformer" in name:
        config: Any = models.FastformerConfig(**SIZES, causal=causal)
    elif "Linformer" in name:
        config = models.LinformerConfig(**SIZES, causal=causal, max_length=LENGTH, slots=16)
    else:
        config = models.TransformerConfig(**SIZES, causal=causal)
    model = SequenceClassifier(config, vocab_size=SYMBOLS, num_classes=CLASSES, max_length=LENGTH)
    if "raw keys" in name:
        sum_raw_keys_(model)
    return without_attention_(model) if name == CONTROL else model


@shared
def trained(setting: Setting, name: str) -> tuple[float, Done, float]:
    """Accuracy on other rows, the run, and how far a causal model's hidden states move when later tokens change (0 for others); once for
    all claims that ask."""

    def rows(count: int, seed: int) -> dict[str, Tensor]:
        return counted(count, LENGTH, seed=seed, symbols=SYMBOLS, classes=CLASSES)

    plan = Plan(steps=setting.scaled(STEPS, least=2), batch=setting.scaled(BATCH, least=2), rate=2e-3)
    model = seeded(setting, build, name)
    said = f"{name}, seed {setting.seed},"
    done = train(model, lambda step: rows(plan.batch, 10_000 * (setting.seed + 1) + step), plan, setting, name=said)
    accuracy = class_accuracy(model, [rows(256, seed) for seed in range(setting.scaled(16))])  # the same for all
    return accuracy, done, _leak(model) if model.config.causal else 0.0


def _leak(model: SequenceClassifier) -> float:
    def hidden(tokens: Tensor) -> Tensor:
        return model.norm(model.backbone(model.embedding(tokens)))

    tokens = torch.randint(SYMBOLS, (4, LENGTH), generator=torch.Generator().manual_seed(0))
    return leak(hidden, tokens, other=lambda late: (late + 1) % SYMBOLS)


def fastformer(setting: Setting) -> Measurement:
    """Beside exact attention."""
    return _compared(setting, {"difference": ("Fastformer", "exact attention"), "attention": ("Fastformer", CONTROL)})


def raw_keys(setting: Setting) -> Measurement:
    """As the paper has it, beside the published package's slip."""
    return _compared(setting, {"difference": ("Fastformer", "Fastformer, raw keys"), "attention": ("Fastformer", CONTROL)})


def causal_forms(setting: Setting) -> Measurement:
    """Causal and bidirectional forms of the same sizes; a classifier takes the mean over positions of either."""
    pairs = {f"causal less bidirectional, {name}": (f"{name}, causal", name) for name in ("Fastformer", "Linformer")}
    needs = {f"attention, {name}": (f"{name}, causal", CONTROL) for name in ("Fastformer", "Linformer")}
    return _compared(setting, pairs | needs)


def _compared(setting: Setting, pairs: dict[str, tuple[str, str]]) -> Measurement:
    """Accuracies of several seeds, and by name the differences of pairs, seed by seed."""
    seeds = [Setting(seed=setting.seed + i, effort=setting.effort, say=setting.say) for i in range(SEEDS)]
    names = list(dict.fromkeys(name for pair in pairs.values() for name in pair))
    runs = {name: [trained(each, name) for each in seeds] for name in names}
    score = {name: [accuracy for accuracy, _, _ in found] for name, found in runs.items()}
    found = {name: spread(values) for name, values in score.items()}
    found |= {key: spread([a - b for a, b in zip(score[plus], score[less], strict=True)]) for key, (plus, less) in pairs.items()}
    return Measurement(
        numbers={key: mean for key, (mean, _) in found.items()} | {"leak": max(moved for many in runs.values() for _, _, moved in many)},
        margins={key: margin for key, (_, margin) in found.items()},
        columns=["model", *(f"accuracy, seed {each.seed}" for each in seeds), "training loss, nats", "training"],
        rows=[
            [name, *(f"{value:.1%}" for value in score[name]), figure(many[0][1].last), f"{many[0][1].seconds:.0f} s"]
            for name, many in runs.items()
        ],
        plot=Plot(
            x="step",
            y="training loss, nats",
            series={name: many[0][1].curve() for name, many in runs.items()},
            x_log=False,
            y_log=False,
        ),
        setup=(
            f"rows of {LENGTH} of {SYMBOLS} symbols, in {CLASSES} classes by how often the first symbol comes again; two layers of "
            f"4 heads, "
            f"width 64, learned positions; {setting.scaled(STEPS, least=2):,} steps of {BATCH} rows, {SEEDS} seeds, "
            f"{256 * setting.scaled(16):,} rows to judge, the same for all"
        ),
    )
