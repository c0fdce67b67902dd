"""Perceiver AR on mirrored copies: a sequence, then the same backwards.

Axes: B batch, N length.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import torch

from ... import models
from ...benchmark.timing import interleave, median
from ...benchmark.work import training_step
from ...data.tasks import make_task
from ...heads.language_model import LanguageModel
from ..claim import Measurement, Plot, Setting
from ..shared import shared
from .controls import leak, spread, without_attention_
from .sequences import urns
from .tasks import accuracy, batches, solved
from .training import Done, Plan, seeded, train

SYMBOLS, SEEDS = 64, 3
URN, DRAWN = 16, 2  # symbols of the rows with a prefix, and how many each row is drawn from
LENGTHS = (32, 64, 128)
CURRICULUM = (64, 256, 1024, 4096)
FIRST = 4  # latents that are judged
STEPS, TOKENS = 1000, 8192  # at most, and in a step at most
SIZES: dict[str, Any] = dict(dim=128, depth=1, heads=4, positions="learned")
CONTROL = "without attention"


def model_for(length: int, **options: Any) -> LanguageModel:
    """One layer of cross-attention and one of self-attention; half of the positions are latents."""
    config = models.PerceiverARConfig(**{**SIZES, **options}, latents=length // 2)
    return LanguageModel(config, vocab_size=SYMBOLS + 3, max_length=length)


@shared
def _copied(setting: Setting, length: int, control: bool = False) -> tuple[float, Done, float]:
    """Share of the second half right, the run, and how far logits move when later tokens change."""
    task = make_task("mirror", length=length, symbols=SYMBOLS, seed=setting.seed)
    plan = Plan(steps=setting.scaled(STEPS, least=2), batch=setting.scaled(min(64, TOKENS // length), least=2), rate=1e-3)
    model = seeded(setting, model_for, length)
    if control:
        without_attention_(model)
    until = solved(model, task, setting, enough=1.0, count=256)
    who = CONTROL if control else "Perceiver AR"
    done = train(model, batches(task, plan.batch), plan, setting, until=until, name=f"{who}, length {length}, seed {setting.seed},")
    return accuracy(model, task, setting, count=1000), done, _leak(model, task)


def _leak(model: LanguageModel, task: Any) -> float:
    tokens = torch.stack([task.validation[i]["tokens"] for i in range(2)])
    return leak(model, tokens, other=lambda late: (late + 1) % (SYMBOLS + 3))


def mirror(setting: Setting) -> Measurement:
    """Lengths that a CPU learns in minutes."""
    numbers, rows, series, leaks = {}, [], {}, []
    for length in LENGTHS:
        runs = [_copied(replace(setting, seed=setting.seed + i), length) for i in range(SEEDS)]
        numbers[f"accuracy at {length}"] = min(score for score, _, _ in runs)
        leaks += [moved for _, _, moved in runs]
        scores, steps = ", ".join(f"{score:.2%}" for score, _, _ in runs), ", ".join(f"{len(done.losses):,}" for _, done, _ in runs)
        rows.append([str(length), scores, steps, f"{sum(done.seconds for _, done, _ in runs):.0f} s"])
        series[f"length {length}"] = runs[0][1].curve()
    control, done, _ = _copied(setting, LENGTHS[0], control=True)
    rows.append([f"{LENGTHS[0]}, {CONTROL}", f"{control:.2%}", f"{len(done.losses):,}", f"{done.seconds:.0f} s"])
    numbers |= {"attention": numbers[f"accuracy at {LENGTHS[0]}"] - control, "leak": max(leaks)}
    return Measurement(
        numbers=numbers,
        columns=["length", "right in the second half, by seed", "steps", "training"],
        rows=rows,
        plot=Plot(x="step", y="loss of the second half, nats", series=series, x_log=False),
        setup=(
            f"{SYMBOLS} symbols, half of the positions as latents, width 128, 4 heads, one self-attention layer, learned positions, "
            f"at most "
            f"{setting.scaled(STEPS, least=2):,} steps of 64 sequences, none twice; {SEEDS} seeds, one for the control"
        ),
    )


def curriculum(setting: Setting) -> Measurement:
    """Lengths from 64 to 4,096, four times as long each time, each trained until it is copied; the same weights throughout."""
    lengths = CURRICULUM if setting.effort >= 1 else CURRICULUM[:2]
    model = seeded(setting, model_for, lengths[-1])
    numbers, rows, series = {}, [], {}
    for length in lengths:
        task = make_task("mirror", length=length, symbols=SYMBOLS, seed=setting.seed)
        plan = Plan(steps=setting.scaled(2000, least=2), batch=max(1, TOKENS // length), rate=1e-3, every=50)
        until = solved(model, task, setting, enough=0.9999, count=max(2, 4 * TOKENS // length))
        done = train(model, batches(task, plan.batch), plan, setting, until=until, name=f"length {length:,},")
        score = accuracy(model, task, setting, count=max(8, 65_536 // length), size=plan.batch)
        numbers[f"accuracy at {length}"] = score
        rows.append([f"{length:,}", f"{score:.3%}", f"{len(done.losses):,}", f"{done.seconds:,.0f} s"])
        series[f"length {length:,}"] = done.curve()
    numbers |= {"accuracy at the end": numbers[f"accuracy at {lengths[-1]}"], "leak": _leak(model, task)}
    return Measurement(
        numbers=numbers,
        columns=["length", "right in the second half", "steps", "training"],
        rows=rows,
        plot=Plot(x="step", y="loss of the second half, nats", series=series, x_log=False),
        setup=f"{SYMBOLS} symbols, at most {lengths[-1] // 2:,} latents, width 128, 4 heads, one self-attention layer, learned positions",
    )


def prefix_dropout(setting: Setting) -> Measurement:
    """Rows of which most is prefix, and only the prefix says which symbols a row is drawn from: the loss after a short run with and without
    half of the prefix left out in training, and without any; and the time of a step."""
    length, latents = (4096, 256) if setting.effort >= 1 else (128, 16)
    plan = Plan(steps=setting.scaled(300, least=2), batch=1, rate=2e-3)
    sides: dict[float, Any] = {}
    losses: dict[str, list[float]] = {"0": [], "0.5": [], "none seen": []}
    leaks = []
    for i in range(SEEDS):
        seed = replace(setting, seed=setting.seed + i)
        for share in (0.0, 0.5):
            config = models.PerceiverARConfig(dim=128, depth=1, heads=4, latents=latents, prefix_dropout=share)
            model = seeded(seed, LanguageModel, config, vocab_size=URN)

            def batch(step: int, first: int = 10_000 * (seed.seed + 1)) -> dict[str, Any]:
                return {"tokens": urns(plan.batch, length + 1, seed=first + step, symbols=URN, drawn=DRAWN)}

            train(model, batch, plan, setting, name=f"prefix dropout {share:g}, seed {seed.seed},")
            tokens = urns(setting.scaled(64), length + 1, seed=1, symbols=URN, drawn=DRAWN)  # the same for all
            losses[f"{share:g}"].append(_loss(model, tokens, latents))
            if share == 0:
                losses["none seen"].append(_loss(model, tokens[:, -latents - 1 :], latents))
            leaks.append(leak(model, tokens[:1, -2 * latents :], other=lambda late: (late + 1) % URN))
            sides[share] = training_step(model.train(), functools.partial(model.loss, tokens[:1]))
    found = interleave({str(share): call for share, call in sides.items()}, rounds=9, budget=10.0)
    times = {share: median(found.seconds[str(share)]) for share in sides}
    cost, cost_margin = spread([half - whole for whole, half in zip(losses["0"], losses["0.5"], strict=True)])
    worth, worth_margin = spread([none - half for none, half in zip(losses["none seen"], losses["0.5"], strict=True)])
    steps = {"0": f"{1e3 * times[0.0]:.1f} ms", "0.5": f"{1e3 * times[0.5]:.1f} ms", "none seen": "-"}
    return Measurement(
        numbers={"time": times[0.5] / times[0.0], "loss": cost, "prefix": worth, "leak": max(leaks)},
        margins={"loss": cost_margin, "prefix": worth_margin},
        columns=["prefix left out in training", "training step", *(f"loss, seed {setting.seed + i}" for i in range(SEEDS))],
        rows=[[name, steps[name], *(f"{value:.3f}" for value in values)] for name, values in losses.items()],
        setup=(
            f"rows of {length:,} tokens, each row drawn from {DRAWN} of {URN} symbols, {latents} latents, width 128, one "
            f"self-attention layer, "
            f"{plan.steps} steps of {plan.batch} rows, {SEEDS} seeds; loss in nats per token of the first {FIRST} latents, nothing left "
            f"out ({math.log(DRAWN):.2f} for whoever has seen the row); none seen: the model trained with the whole prefix, without it"
        ),
    )


def _loss(model: LanguageModel, tokens: Any, latents: int) -> float:
    """Nats per token of the first latents, which have few others among them to learn the row's symbols from."""
    model.eval()
    scored = torch.zeros_like(tokens, dtype=torch.bool)
    first = tokens.shape[1] - latents
    scored[:, first : first + FIRST] = True
    return float(
        torch.cat([model.token_losses(some, scored=s)[0] for some, s in zip(tokens.split(4), scored.split(4), strict=True)]).mean()
    )
