"""Text classification on what every machine has: which package of the standard library a window of source code is from.

Axes: B batch, N length.
"""

from __future__ import annotations

import functools
import statistics
from typing import Any

from ... import models
from ...heads.sequence_classifier import SequenceClassifier
from ..claim import Measurement, Plot, Setting, figure
from .additive import sum_raw_keys_
from .stdlib import labelled, packages
from .tasks import class_accuracy
from .training import Done, Plan, seeded, train

PACKAGES = ("asyncio", "email", "encodings", "http", "importlib", "multiprocessing", "unittest", "xml")
LENGTH, BATCH, STEPS = 512, 16, 800
SIZES: dict[str, Any] = dict(dim=64, depth=2, heads=4, positions="learned", token_shift=True)


def build(name: str) -> SequenceClassifier:
    """A classifier by its name here: a model, with "causal" or "raw keys" in it perhaps."""
    causal = "causal" in name
    if "Fastformer" in name:
        config: Any = models.FastformerConfig(**SIZES, causal=causal)
    elif "Linformer" in name:
        config = models.LinformerConfig(**SIZES, causal=causal, max_length=LENGTH, slots=64)
    else:
        config = models.TransformerConfig(**SIZES, causal=causal)
    model = SequenceClassifier(config, num_classes=len(PACKAGES), max_length=LENGTH)
    if "raw keys" in name:
        sum_raw_keys_(model)
    return model


@functools.cache
def trained(name: str, seed: int, effort: float) -> tuple[float, Done]:
    """Accuracy on files that were not trained on, and the run; once for all claims that ask."""
    setting = Setting(seed=seed, effort=effort)
    texts, held_out = packages(PACKAGES, LENGTH)
    plan = Plan(steps=setting.scaled(STEPS, least=2), batch=setting.scaled(BATCH, least=2), rate=2e-3)
    model = seeded(setting, build, name)
    done = train(model, lambda step: labelled(texts, LENGTH, plan.batch, seed=10_000 * (seed + 1) + step), plan, setting, name=name)
    count = setting.scaled(16, least=1)
    return class_accuracy(model, [labelled(held_out, LENGTH, 64, seed=i) for i in range(count)]), done


def fastformer(setting: Setting) -> Measurement:
    """Beside exact attention."""
    return _compared(setting, ("Fastformer", "exact attention"), seeds=2, less="exact attention", plus="Fastformer")


def raw_keys(setting: Setting) -> Measurement:
    """As the paper has it, beside the published package's slip."""
    return _compared(setting, ("Fastformer", "Fastformer, raw keys"), seeds=3, less="Fastformer, raw keys", plus="Fastformer")


def causal_forms(setting: Setting) -> Measurement:
    """Causal and bidirectional forms of the same sizes; a classifier takes the mean over positions of either."""
    names = ("Fastformer", "Fastformer, causal", "Linformer", "Linformer, causal")
    found = _compared(setting, names, seeds=1, less="", plus="")
    values = found.numbers
    return Measurement(
        numbers={
            "Fastformer": values["Fastformer, causal"] - values["Fastformer"],
            "Linformer": values["Linformer, causal"] - values["Linformer"],
        },
        columns=found.columns,
        rows=found.rows,
        plot=found.plot,
        setup=found.setup,
    )


def _compared(setting: Setting, names: tuple[str, ...], *, seeds: int, less: str, plus: str) -> Measurement:
    try:
        packages(PACKAGES, LENGTH)
    except ValueError as error:
        return Measurement(unavailable=str(error))
    numbers, rows, series = {}, [], {}
    scores: dict[str, list[float]] = {}
    for name in names:
        runs = [trained(name, setting.seed + i, setting.effort) for i in range(seeds)]
        scores[name] = [accuracy for accuracy, _ in runs]
        numbers[name] = statistics.fmean(scores[name])
        rows.append([name, *(f"{accuracy:.1%}" for accuracy in scores[name]), figure(runs[0][1].last), f"{runs[0][1].seconds:.0f} s"])
        series[name] = runs[0][1].curve()
    if plus:
        differences = [a - b for a, b in zip(scores[plus], scores[less], strict=True)]
        numbers |= {"difference": statistics.fmean(differences), "least difference": min(differences)}
    steps = setting.scaled(STEPS, least=2)
    return Measurement(
        numbers=numbers,
        columns=["model", *(f"accuracy, seed {setting.seed + i}" for i in range(seeds)), "training loss, nats", "training"],
        rows=rows,
        plot=Plot(x="step", y="training loss, nats", series=series, x_log=False, y_log=False),
        setup=(
            f"{len(PACKAGES)} packages of the standard library ({', '.join(PACKAGES)}), windows of {LENGTH} bytes, validated on files "
            f"not trained on; two layers of 4 heads, width 64, half of the channels shifted by a byte; {steps:,} steps of {BATCH} windows"
        ),
    )
