"""Linformer's quality by the number of slots and by sharing: masked bytes of the standard library."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ... import models
from ...costs.cost import parameter_count
from ...heads.language_model import LanguageModel
from ..claim import Measurement, Plot, Setting
from .stdlib import VOCABULARY, bytes_of_stdlib, windows
from .training import Done, Plan, seeded, train

LENGTH, BATCH, STEPS = 256, 16, 600
SIZES: dict[str, Any] = dict(dim=64, depth=3, heads=4, causal=False, positions="learned", token_shift=True)


@functools.cache
def _trained(slots: int | None, share: str, seed: int, effort: float) -> tuple[float, Done, int]:
    """Validation loss in nats, the run, and the parameters; `slots` None: exact attention."""
    setting = Setting(seed=seed, effort=effort)
    if slots is None:
        config: Any = models.TransformerConfig(**SIZES)
    else:
        config = models.LinformerConfig(**SIZES, max_length=LENGTH, slots=slots, share=share)
    model = seeded(setting, LanguageModel, config, vocab_size=VOCABULARY, max_length=LENGTH)
    corpus = bytes_of_stdlib(setting)
    hiding = torch.Generator().manual_seed(seed)

    def batch(step: int) -> dict[str, Any]:
        tokens = windows(corpus.train, LENGTH, BATCH, seed=10_000 * (seed + 1) + step)
        return {"tokens": tokens, "generator": hiding}

    plan = Plan(steps=setting.scaled(STEPS, least=2), batch=BATCH, rate=2e-3)
    done = train(model, batch, plan, setting, name=f"k = {slots}, {share}")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        groups = [windows(corpus.validation, LENGTH, 64, seed=i) for i in range(setting.scaled(8, least=1))]
        loss = sum(float(model.loss(group, generator=generator)) for group in groups) / len(groups)
    return loss, done, parameter_count(model)


def by_count(setting: Setting) -> Measurement:
    """More slots, up to half of the length, beside exact attention."""
    counts = (8, 32, 128)
    runs = {f"k = {k}": _trained(k, "none", setting.seed, setting.effort) for k in counts}
    runs["exact attention"] = _trained(None, "none", setting.seed, setting.effort)
    losses = [loss for loss, _, _ in runs.values()]
    found = _told(setting, runs, {"exact": losses[3], "gap to exact": losses[2] - losses[3], "k = 8 less k = 128": losses[0] - losses[2]})
    line = [(float(k), loss) for k, loss in zip(counts, losses, strict=False)]
    series = {"Linformer": line, "exact attention": [(float(k), losses[3]) for k in counts]}
    found.plot = Plot(x="slots k", y="validation loss, nats per hidden byte", series=series, y_log=False, dashed=("exact attention",))
    return found


def sharing(setting: Setting) -> Measurement:
    """One projection for keys and values, and one for all layers, beside two in each."""
    runs = {f"share = {share}": _trained(32, share, setting.seed, setting.effort) for share in ("none", "kv", "layer")}
    none, kv, layer = (loss for loss, _, _ in runs.values())
    return _told(setting, runs, {"none": none, "kv": kv - none, "layer": layer - none})


def _told(setting: Setting, runs: dict[str, tuple[float, Done, int]], numbers: dict[str, float]) -> Measurement:
    return Measurement(
        numbers=numbers,
        columns=["model", "parameters", "validation loss, nats per hidden byte", "training"],
        rows=[[name, f"{count:,}", f"{loss:.3f}", f"{done.seconds:.0f} s"] for name, (loss, done, count) in runs.items()],
        setup=(
            f"windows of {LENGTH} bytes of the standard library, 15% hidden; width 64, 3 layers of 4 heads, "
            f"half of the channels shifted by a byte; {setting.scaled(STEPS, least=2):,} steps of {BATCH} windows"
        ),
    )
