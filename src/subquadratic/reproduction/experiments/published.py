"""Each published package beside its twin in `subquadratic.compat`, which begins with the same weights, and beside our model: one loop, one
stream of data.

Axes: B batch, N length, V vocabulary.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import models
from ...benchmark.competitors import installed
from ...benchmark.work import NotAvailable
from ...heads.language_model import LanguageModel
from ..claim import Measurement, Plot, Setting, figure
from .stdlib import VOCABULARY, bytes_of_stdlib, windows
from .training import Done, Loss, Plan, seeded, train

LENGTH, BATCH, STEPS = 128, 8, 200
HIDDEN = VOCABULARY  # the token that stands for a hidden byte in the packages, which know none
SIZES: dict[str, Any] = dict(dim=64, depth=2, heads=2)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A package and ours: how each is built, and its loss."""

    package: str
    name: str
    options: dict[str, Any]
    config: Any
    theirs: Loss
    ours: Loss
    length: int = LENGTH


def next_token(model: Any, batch: dict[str, Any]) -> Tensor:
    """Of a causal model of a package."""
    tokens = batch["tokens"]
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def hidden_bytes(model: Any, batch: dict[str, Any]) -> Tensor:
    """Of a bidirectional model of a package."""
    tokens, hidden = batch["tokens"], batch["hidden"]
    inputs = tokens.masked_fill(hidden, HIDDEN)
    more = (torch.ones_like(hidden),) if type(model).__name__ == "FastTransformer" else ()  # it runs only with a mask
    return F.cross_entropy(model(inputs, *more)[hidden], tokens[hidden])


def our_hidden_bytes(model: Any, batch: dict[str, Any]) -> Tensor:
    tokens, hidden = batch["tokens"], batch["hidden"]
    return F.cross_entropy(model(tokens, masked=hidden)[hidden], tokens[hidden])


def our_next_token(model: Any, batch: dict[str, Any]) -> Tensor:
    return model.loss(batch["tokens"])


def labelled(model: Any, batch: dict[str, Any]) -> Tensor:
    """Of the published Perceiver AR, which has a loss of its own."""
    return model(batch["tokens"][:, :-1], labels=batch["tokens"][:, 1:])


def performer(setting: Setting) -> Measurement:
    options = dict(num_tokens=VOCABULARY, max_seq_len=LENGTH, dim_head=32, causal=True, feature_redraw_interval=None, **SIZES)
    config = models.PerformerConfig(**SIZES)
    return _measured(
        setting,
        Pair(package="performer_pytorch", name="PerformerLM", options=options, config=config, theirs=next_token, ours=our_next_token),
    )


def linformer(setting: Setting) -> Measurement:
    options = dict(num_tokens=VOCABULARY + 1, seq_len=LENGTH, k=32, **SIZES)
    config = models.LinformerConfig(**SIZES, causal=False, max_length=LENGTH, slots=32)
    return _measured(
        setting, Pair(package="linformer", name="LinformerLM", options=options, config=config, theirs=hidden_bytes, ours=our_hidden_bytes)
    )


def fastformer(setting: Setting) -> Measurement:
    options = dict(num_tokens=VOCABULARY + 1, max_seq_len=LENGTH, dim_head=32, absolute_pos_emb=True, **SIZES)
    config = models.FastformerConfig(**SIZES, causal=False, positions="learned")
    return _measured(
        setting,
        Pair(
            package="fast_transformer_pytorch",
            name="FastTransformer",
            options=options,
            config=config,
            theirs=hidden_bytes,
            ours=our_hidden_bytes,
        ),
    )


def feedback(setting: Setting) -> Measurement:
    length = 48
    options = dict(num_tokens=VOCABULARY, seq_len=1, mem_len=length, dim_head=32, **SIZES)
    config = models.FeedbackTransformerConfig(**SIZES, memory_length=length)
    return _measured(
        setting,
        Pair(
            package="feedback_transformer_pytorch",
            name="FeedbackTransformer",
            options=options,
            config=config,
            theirs=next_token,
            ours=our_next_token,
            length=length,
        ),
        steps=2 * STEPS,
    )


def perceiver(setting: Setting) -> Measurement:
    options = dict(num_tokens=VOCABULARY, max_seq_len=LENGTH, cross_attn_seq_len=LENGTH // 2, dim_head=32, **SIZES)
    config = models.PerceiverARConfig(**SIZES, latents=LENGTH // 2)
    return _measured(
        setting,
        Pair(package="perceiver_ar_pytorch", name="PerceiverAR", options=options, config=config, theirs=labelled, ours=our_next_token),
    )


def _measured(setting: Setting, pair: Pair, *, steps: int = STEPS) -> Measurement:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # some print and warn when they are imported
        try:
            package = installed(pair.package)
        except NotAvailable as error:
            return Measurement(unavailable=str(error))
        theirs = seeded(setting, getattr(package, pair.name), **pair.options)
        twin = getattr(importlib.import_module(f"subquadratic.compat.{pair.package}"), pair.name)(**pair.options)
        twin.load_state_dict(theirs.state_dict(), strict=True)
        need = pair.length if pair.config.positions == "learned" else None
        ours = seeded(setting, LanguageModel, pair.config, vocab_size=VOCABULARY, max_length=need)
        plan = Plan(steps=setting.scaled(steps, least=2), batch=BATCH, rate=2e-3)
        sides = {"published": (theirs, pair.theirs), "twin": (twin, pair.theirs), "ours": (ours, pair.ours)}
        data = _batches(setting, pair)
        runs = {name: train(model, data, plan, setting, loss=loss, name=name) for name, (model, loss) in sides.items()}
        causal = pair.theirs is not hidden_bytes
        tokens = data(plan.steps)["tokens"][:, : pair.length]
        leaks = {name: leak(model, tokens) if causal else math.nan for name, (model, _) in sides.items()}
    return _told(runs, leaks, pair, plan)


@torch.no_grad()
def leak(model: Any, tokens: Tensor) -> float:
    """How far logits of a causal model move when the last quarter of the tokens, which they may not see, become others."""
    model.eval()
    late = tokens.shape[1] // 4
    other = torch.cat((tokens[:, :-late], (tokens[:, -late:] + 100) % 256), dim=1)
    return float((model(other) - model(tokens))[:, :-late].abs().max())


def _batches(setting: Setting, pair: Pair) -> Callable[[int], dict[str, Tensor]]:
    """Windows of the standard library, and which bytes of each are hidden."""
    corpus = bytes_of_stdlib(setting)
    more = pair.theirs is not hidden_bytes  # of which the last byte is predicted and not read

    def batch(step: int) -> dict[str, Tensor]:
        seed = 10_000 * (setting.seed + 1) + step
        tokens = windows(corpus.train, pair.length + more, BATCH, seed=seed)
        hidden = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < 0.15
        hidden[:, 0] = True  # one at least
        return {"tokens": tokens, "hidden": hidden}

    return batch


def _told(runs: dict[str, Done], leaks: dict[str, float], pair: Pair, plan: Plan) -> Measurement:
    apart = max(abs(a - b) for a, b in zip(runs["published"].losses, runs["twin"].losses, strict=True))
    speed = {name: runs["published"].seconds / done.seconds for name, done in runs.items()}
    return Measurement(
        numbers={
            "twin": apart,
            "ours": runs["ours"].last - runs["published"].last,
            "faster": speed["ours"],
            "leak": leaks["published"],
            "leak of ours": leaks["ours"],
        },
        columns=["model", "loss of the last steps, nats", "training", "times as fast", "logits moved by later tokens"],
        rows=[
            [name, f"{done.last:.4f}", f"{done.seconds:.1f} s", f"{speed[name]:.2f}", figure(leaks[name]).replace("nan", "-")]
            for name, done in runs.items()
        ],
        plot=Plot(
            x="step", y="training loss, nats", x_log=False, y_log=False, dashed=("published",),
            series={name: done.curve() for name, done in runs.items()},
        ),
        setup=(
            f"{plan.steps} steps of {BATCH} windows of {pair.length} bytes of the standard library, width 64, 2 layers of 2 "
            "heads; the runs one after another"
        ),
    )  # fmt: skip
