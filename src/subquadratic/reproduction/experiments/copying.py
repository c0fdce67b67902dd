"""Perceiver AR on mirrored copies: a sequence, then the same backwards.

Axes: B batch, N length.
"""

from __future__ import annotations

import functools
from typing import Any

from ... import models
from ...benchmark.timing import interleave, median
from ...benchmark.work import training_step
from ...data.tasks import make_task
from ...heads.language_model import LanguageModel
from ..claim import Measurement, Plot, Setting
from .stdlib import VOCABULARY, bytes_of_stdlib, windows
from .tasks import accuracy, batches, solved
from .training import Done, Plan, seeded, train

SYMBOLS = 64
SIZES: dict[str, Any] = dict(dim=128, depth=1, heads=4)


def model_for(length: int, **options: Any) -> LanguageModel:
    """One layer of cross-attention and one of self-attention; half of the positions are latents."""
    config = models.PerceiverARConfig(**SIZES, latents=length // 2, **options)
    return LanguageModel(config, vocab_size=SYMBOLS + 3)


@functools.cache
def _copied(length: int, seed: int, effort: float) -> tuple[float, Done]:
    setting = Setting(seed=seed, effort=effort)
    task = make_task("mirror", length=length, symbols=SYMBOLS, seed=seed)
    plan = Plan(steps=setting.scaled(15_000, least=2), batch=setting.scaled(64, least=2), rate=1e-3, every=250)
    model = seeded(setting, model_for, length)
    until = solved(model, task, setting, enough=1.0, count=256)
    done = train(model, batches(task, plan.batch), plan, setting, until=until)
    return accuracy(model, task, setting, count=1000), done


def mirror(setting: Setting) -> Measurement:
    """Lengths that a CPU learns in minutes."""
    numbers, rows, series = {}, [], {}
    for length in (32, 64, 128):
        setting.say(f"length {length}")
        score, done = _copied(length, setting.seed, setting.effort)
        numbers[f"accuracy at {length}"] = score
        rows.append([str(length), f"{score:.3%}", f"{len(done.losses):,}", f"{done.seconds:.0f} s"])
        series[f"length {length}"] = done.curve()
    return Measurement(
        numbers=numbers,
        columns=["length", "right in the second half", "steps", "training"],
        rows=rows,
        plot=Plot(x="step", y="loss of the second half, nats", series=series, x_log=False),
        setup=(
            f"{SYMBOLS} symbols, half of the positions as latents, width 128, 4 heads, one self-attention layer, batches of 64, none twice"
        ),
    )


def curriculum(setting: Setting) -> Measurement:
    """Lengths doubled from 64 to 8,192, each trained until it is copied; the same weights throughout."""
    lengths = [2**power for power in range(6, 14)] if setting.effort >= 1 else [16, 32]
    model = seeded(setting, model_for, lengths[-1])
    numbers, rows, series = {}, [], {}
    for length in lengths:
        task = make_task("mirror", length=length, symbols=SYMBOLS, seed=setting.seed)
        plan = Plan(steps=setting.scaled(6000, least=2), batch=max(1, 4096 // length), rate=5e-4, every=50)
        until = solved(model, task, setting, enough=0.9999, count=max(2, 8192 // length))
        done = train(model, batches(task, plan.batch), plan, setting, until=until, name=f"length {length:,},")
        score = accuracy(model, task, setting, count=max(8, 32_768 // length), size=max(1, 4096 // length))
        numbers[f"accuracy at {length}"] = score
        rows.append([f"{length:,}", f"{score:.3%}", f"{len(done.losses):,}", f"{done.seconds:,.0f} s"])
        series[f"length {length:,}"] = done.curve()
    numbers["accuracy at the end"] = numbers[f"accuracy at {lengths[-1]}"]
    return Measurement(
        numbers=numbers,
        columns=["length", "right in the second half", "steps", "training"],
        rows=rows,
        plot=Plot(x="step", y="loss of the second half, nats", series=series, x_log=False),
        setup=f"{SYMBOLS} symbols, at most {lengths[-1] // 2:,} latents, width 128, 4 heads, one self-attention layer",
    )


def prefix_dropout(setting: Setting) -> Measurement:
    """Time of a training step on text of which most is prefix, with and without half of it left out; and the loss after a short run."""
    length, latents = (4096, 256) if setting.effort >= 1 else (128, 32)
    corpus = bytes_of_stdlib(setting)
    sides, losses, rows = {}, {}, []
    for share in (0.0, 0.5):
        config = models.PerceiverARConfig(dim=128, depth=1, heads=4, latents=latents, prefix_dropout=share)
        model = seeded(setting, LanguageModel, config, vocab_size=VOCABULARY)
        plan = Plan(steps=setting.scaled(300, least=2), batch=1, rate=1e-3)

        def batch(step: int) -> dict[str, Any]:
            return {"tokens": windows(corpus.train, length + 1, 1, seed=10_000 * (setting.seed + 1) + step)}

        train(model, batch, plan, setting, name=f"prefix dropout {share:g}")
        losses[share] = _text_loss(model, corpus.validation, length, setting)
        tokens = windows(corpus.train, length + 1, 1, seed=setting.seed)
        sides[share] = training_step(model.train(), functools.partial(model.loss, tokens))
    found = interleave({str(share): call for share, call in sides.items()}, rounds=9, budget=20.0)
    times = {share: median(found.seconds[str(share)]) for share in sides}
    for share in sides:
        rows.append([f"{share:g}", f"{1e3 * times[share]:.1f} ms", f"{losses[share]:.3f}"])
    return Measurement(
        numbers={"time": times[0.5] / times[0.0], "loss": losses[0.5] - losses[0.0]},
        columns=["prefix left out", "training step", "validation loss, nats per byte"],
        rows=rows,
        setup=(
            f"{length:,} bytes of the standard library, {latents} latents, width 128, one self-attention layer, "
            f"{plan.steps} steps of one sequence"
        ),
    )


def _text_loss(model: LanguageModel, tokens: Any, length: int, setting: Setting) -> float:
    """Nats per byte of the latents of validation windows, nothing left out."""
    model.eval()
    nats = [model.token_losses(windows(tokens, length + 1, 4, seed=777 + i))[0] for i in range(setting.scaled(8, least=1))]
    return float(sum(part.sum() for part in nats) / sum(len(part) for part in nats))
