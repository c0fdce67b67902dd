"""Language models of the standard library's source code: whether they use what is far back, and whether they read on past their training
length.

Axes: B batch, N length.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from ... import models
from ...evaluation.material import validation_text
from ...evaluation.score import evaluate_text
from ...evaluation.tally import TextScore
from ...heads.language_model import LanguageModel
from ..claim import Measurement, Plot, Setting
from .stdlib import VOCABULARY, bytes_of_stdlib, windows
from .training import Done, Plan, seeded, train

LENGTH, BATCH, STEPS = 512, 8, 400
FAR = 65_536
FORMS: dict[str, Any] = {
    "exact attention": lambda **sizes: models.TransformerConfig(**sizes),
    "Performer": lambda **sizes: models.PerformerConfig(**sizes, features=128),
    "gated linear": lambda **sizes: models.GatedLinearConfig(**sizes),
    "Linformer": lambda **sizes: models.LinformerConfig(**sizes, max_length=LENGTH, slots=64),
    "Fastformer": lambda **sizes: models.FastformerConfig(**sizes),
}
STREAMS = ("Performer", "gated linear", "Fastformer")


@functools.cache
def trained(name: str, seed: int, effort: float) -> tuple[LanguageModel, Done]:
    """A causal model and its run; once for all claims that ask."""
    setting = Setting(seed=seed, effort=effort)
    config = FORMS[name](dim=128, depth=2, heads=4)
    model = seeded(setting, LanguageModel, config, vocab_size=VOCABULARY, max_length=LENGTH if name == "Linformer" else None)
    train_bytes = bytes_of_stdlib(setting).train
    plan = Plan(steps=setting.scaled(STEPS, least=2), batch=BATCH, rate=2e-3)

    def batch(step: int) -> dict[str, Any]:
        return {"tokens": windows(train_bytes, LENGTH, BATCH, seed=10_000 * (seed + 1) + step)}

    return model, train(model, batch, plan, setting, name=name)


def by_position(setting: Setting) -> Measurement:
    """Loss in windows of validation text, by the number of bytes before."""
    text = validation_text(bytes_of_stdlib(setting)).cut(setting.scaled(131_072, least=LENGTH + 1))
    numbers: dict[str, float] = {}
    lines, rows = {}, []
    for name in FORMS:
        setting.say(f"training {name}")
        model, done = trained(name, setting.seed, setting.effort)
        score = evaluate_text(model, text, context=LENGTH)
        lines[name] = _line(score)
        early, late = _bits(score, 16, 32), _bits(score, 256, 512)
        numbers |= {f"{name}, gain": early - late, f"{name}, late": late}
        rows.append([name, *(f"{_bits(score, low, 2 * low):.3f}" for low in (16, 32, 64, 128, 256)), f"{done.seconds:.0f} s"])
    return Measurement(
        numbers=numbers,
        columns=["bits per byte", *(f"after {low} to {2 * low - 1}" for low in (16, 32, 64, 128, 256)), "training"],
        rows=rows,
        plot=Plot(x="bytes before", y="bits per byte", series=lines, y_log=False),
        setup=_setup(setting, f"{len(text):,} bytes of validation text in windows"),
    )


def long_range(setting: Setting) -> Measurement:
    """The same models with their state carried on, far beyond what they were trained with."""
    length = FAR if setting.effort >= 1 else 2 * LENGTH
    corpus = bytes_of_stdlib(setting)
    text = validation_text(corpus).cut(length)
    numbers: dict[str, float] = {}
    lines, rows = {}, []
    marks = [2**power for power in range(8, int(math.log2(length)))]
    for name in STREAMS:
        setting.say(f"training {name}")
        model, _ = trained(name, setting.seed, setting.effort)
        score = evaluate_text(model, text, reset="never")
        fresh = evaluate_text(model, text, context=LENGTH)
        lines[f"{name}, state carried on"] = _line(score)
        numbers[name] = _bits(score, LENGTH, length) - _bits(fresh, 256, LENGTH)
        rows.append([name, f"{_bits(fresh, 256, LENGTH):.3f}", *(f"{_bits(score, low, 2 * low):.3f}" for low in marks)])
    return Measurement(
        numbers=numbers,
        columns=["bits per byte", "windows, after 256 to 511", *(f"after {low:,}" for low in marks)],
        rows=rows,
        plot=Plot(x="bytes before", y="bits per byte", series=lines, y_log=False),
        setup=_setup(setting, f"one stream of {length:,} bytes of validation text"),
    )


def _bits(score: TextScore, start: int, stop: int) -> float:
    """Mean bits of predictions after `start` to `stop` - 1 bytes."""
    parts = [bucket for bucket in score.by_position if bucket.start >= start and bucket.stop <= stop]
    return sum(part.loss * part.predicted for part in parts) / sum(part.predicted for part in parts) / math.log(2)


def _line(score: TextScore) -> list[tuple[float, float]]:
    return [(float(max(bucket.start, 8)), bucket.loss / math.log(2)) for bucket in score.by_position]


def _setup(setting: Setting, what: str) -> str:
    return (
        f"width 128, 2 layers of 4 heads, {setting.scaled(STEPS, least=2):,} steps of {BATCH} windows of {LENGTH} bytes of the standard "
        f"library; {what}"
    )
