"""Each published package beside its twin in `subquadratic.compat`, which begins with the same weights, and beside our model: one loop, one
stream of data.

Axes: B batch, N length.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import models
from ...benchmark.competitors import installed
from ...benchmark.work import NotAvailable
from ...heads.language_model import LanguageModel
from ..claim import Measurement, Plot, Setting, figure
from .additive import sum_raw_keys_
from .controls import leak, spread
from .sequences import alone, urns
from .training import Done, Loss, Plan, seeded, train

LENGTH, BATCH, STEPS, SEEDS = 64, 16, 400, 3
SYMBOLS, DRAWN = 16, 2  # of the rows, each of which is drawn from so many of its own
HIDDEN = SYMBOLS  # the token that stands for a hidden one in the packages, which know none
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
    parts: tuple[str, ...] = ("published", "twin", "ours")

    @property
    def causal(self) -> bool:
        return self.theirs is not hidden_tokens


def next_token(model: Any, batch: dict[str, Any]) -> Tensor:
    """Of a causal model of a package."""
    tokens = batch["tokens"]
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def hidden_tokens(model: Any, batch: dict[str, Any]) -> Tensor:
    """Of a bidirectional model of a package."""
    tokens, hidden = batch["tokens"], batch["hidden"]
    inputs = tokens.masked_fill(hidden, HIDDEN)
    more = (torch.ones_like(hidden),) if type(model).__name__ == "FastTransformer" else ()  # it runs only with a mask
    return F.cross_entropy(model(inputs, *more)[hidden], tokens[hidden])


def our_hidden_tokens(model: Any, batch: dict[str, Any]) -> Tensor:
    tokens, hidden = batch["tokens"], batch["hidden"]
    return F.cross_entropy(model(tokens, masked=hidden)[hidden], tokens[hidden])


def our_next_token(model: Any, batch: dict[str, Any]) -> Tensor:
    return model.loss(batch["tokens"])


def labelled(model: Any, batch: dict[str, Any]) -> Tensor:
    """Of the published Perceiver AR, which has a loss of its own."""
    return model(batch["tokens"][:, :-1], labels=batch["tokens"][:, 1:])


def performer(setting: Setting) -> Measurement:
    """The package is right where it reads both ways: there the twin must equal it. What its causal form has too much is told in nats."""
    options = dict(num_tokens=SYMBOLS + 1, max_seq_len=LENGTH, dim_head=32, causal=True, feature_redraw_interval=None, **SIZES)
    pair = Pair(
        package="performer_pytorch",
        name="PerformerLM",
        options=options,
        config=models.PerformerConfig(**SIZES),
        theirs=next_token,
        ours=our_next_token,
    )
    found = _measured(setting, pair)
    if found.unavailable:
        return found
    both = replace(pair, options={**options, "causal": False}, theirs=hidden_tokens, parts=("published", "twin"))
    runs = _runs(setting, both, _plan(setting))[0]
    for name, done in runs.items():
        found.rows.append([f"{name}, bidirectional", f"{done.last:.4f}", f"{done.seconds:.1f} s", "-", "-"])
    found.numbers["twin"] = _apart(runs)
    cost, margin = found.numbers["published less twin"], found.margins.get("published less twin", math.nan)
    side = "higher" if cost > 0 else "lower"
    found.finding = (
        f"The package's causal form lets logits move by {figure(found.numbers['leak of the package'])} when later tokens change; what is "
        f"wrong in it makes its loss at the end {abs(cost):.3f} ± {margin:.3f} nats {side} than the twin's, which does not look ahead."
    )
    return found


def linformer(setting: Setting) -> Measurement:
    return _measured(
        setting,
        Pair(
            package="linformer",
            name="LinformerLM",
            options=dict(num_tokens=SYMBOLS + 1, seq_len=LENGTH, k=16, **SIZES),
            config=models.LinformerConfig(**SIZES, causal=False, max_length=LENGTH, slots=16),
            theirs=hidden_tokens,
            ours=our_hidden_tokens,
        ),
    )


def fastformer(setting: Setting) -> Measurement:
    return _measured(
        setting,
        Pair(
            package="fast_transformer_pytorch",
            name="FastTransformer",
            options=dict(num_tokens=SYMBOLS + 1, max_seq_len=LENGTH, dim_head=32, absolute_pos_emb=True, **SIZES),
            config=models.FastformerConfig(**SIZES, causal=False, positions="learned"),
            theirs=hidden_tokens,
            ours=our_hidden_tokens,
        ),
    )


def feedback(setting: Setting) -> Measurement:
    length = 24
    return _measured(
        setting,
        Pair(
            package="feedback_transformer_pytorch",
            name="FeedbackTransformer",
            options=dict(num_tokens=SYMBOLS, seq_len=1, mem_len=length, dim_head=32, **SIZES),
            config=models.FeedbackTransformerConfig(**SIZES, memory_length=length),
            theirs=next_token,
            ours=our_next_token,
            length=length,
        ),
    )


def perceiver(setting: Setting) -> Measurement:
    return _measured(
        setting,
        Pair(
            package="perceiver_ar_pytorch",
            name="PerceiverAR",
            options=dict(num_tokens=SYMBOLS, max_seq_len=LENGTH, cross_attn_seq_len=LENGTH // 2, dim_head=32, **SIZES),
            config=models.PerceiverARConfig(**SIZES, latents=LENGTH // 2),
            theirs=labelled,
            ours=our_next_token,
        ),
    )


def _plan(setting: Setting) -> Plan:
    return Plan(steps=setting.scaled(STEPS, least=2), batch=BATCH, rate=2e-3)


def _measured(setting: Setting, pair: Pair) -> Measurement:
    try:
        with _quiet():
            installed(pair.package)
    except NotAvailable as error:
        return Measurement(unavailable=str(error))
    plan = _plan(setting)
    found = [_runs(replace(setting, seed=setting.seed + i), pair, plan) for i in range(SEEDS)]
    return _told([runs for runs, _ in found], found[0][1], pair, plan)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Some packages print and warn when they are imported."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _runs(setting: Setting, pair: Pair, plan: Plan) -> tuple[dict[str, Done], dict[str, float]]:
    """The runs of one seed, and what is to be known of the trained models."""
    data = _batches(setting, pair)
    with _quiet():
        theirs = seeded(setting, getattr(installed(pair.package), pair.name), **pair.options)
        twin = getattr(importlib.import_module(f"subquadratic.compat.{pair.package}"), pair.name)(**pair.options)
    twin.load_state_dict(theirs.state_dict(), strict=True)
    need = pair.length if pair.config.positions == "learned" else None
    ours = seeded(setting, LanguageModel, pair.config, vocab_size=SYMBOLS, max_length=need)
    whole = {"published": (theirs, pair.theirs), "twin": (twin, pair.theirs), "ours": (ours, pair.ours)}
    sides = {name: whole[name] for name in pair.parts}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = {
            name: train(model, data, plan, setting, loss=loss, name=f"{name}, seed {setting.seed},")
            for name, (model, loss) in sides.items()
        }
        batch = data(plan.steps)
        known: dict[str, float] = {}
        if pair.causal:
            tokens = batch["tokens"][:, : pair.length]
            known |= {name: leak(model, tokens, other=lambda late: (late + 1) % SYMBOLS) for name, (model, _) in sides.items()}
    if isinstance(pair.config, models.FastformerConfig):
        known["slip"] = _slip(ours, batch)
    return runs, known


@torch.no_grad()
def _slip(model: LanguageModel, batch: dict[str, Tensor]) -> float:
    """How far logits of our Fastformer are from those with the package's sum of raw keys, relative to their size."""
    logits, raw = (m(batch["tokens"], masked=batch["hidden"]) for m in (model, sum_raw_keys_(copy.deepcopy(model))))
    return float((raw - logits).norm() / logits.norm())


def _batches(setting: Setting, pair: Pair) -> Callable[[int], dict[str, Tensor]]:
    """Rows of few symbols each, and which tokens of each are hidden."""

    def batch(step: int) -> dict[str, Tensor]:
        seed = 10_000 * (setting.seed + 1) + step
        tokens = urns(BATCH, pair.length + pair.causal, seed=seed, symbols=SYMBOLS, drawn=DRAWN)  # a causal model does not read the last
        hidden = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < 0.15
        hidden[:, 0] = True  # one at least
        return {"tokens": tokens, "hidden": hidden}

    return batch


def _apart(runs: dict[str, Done]) -> float:
    return max(abs(a - b) for a, b in zip(runs["published"].losses, runs["twin"].losses, strict=True))


def _told(found: list[dict[str, Done]], known: dict[str, float], pair: Pair, plan: Plan) -> Measurement:
    last = {name: spread([runs[name].last for runs in found]) for name in pair.parts}
    ours, ours_margin = spread([runs["ours"].last - runs["published"].last for runs in found])
    twin, twin_margin = spread([runs["published"].last - runs["twin"].last for runs in found])
    seconds = {name: sum(runs[name].seconds for runs in found) for name in pair.parts}
    bound = alone(SYMBOLS, DRAWN)
    numbers = {
        "twin": max(map(_apart, found)),
        "ours": ours,
        "published less twin": twin,
        "attention": bound - last["ours"][0],
        "faster": seconds["published"] / seconds["ours"],
    }
    if pair.causal:
        numbers |= {"leak": max(known["twin"], known["ours"]), "leak of the package": known["published"]}
    if "slip" in known:
        numbers["slip"] = known["slip"]
    return Measurement(
        numbers=numbers,
        margins={"ours": ours_margin, "published less twin": twin_margin, "attention": last["ours"][1]},
        columns=["model", "loss of the last steps, nats", "training", "times as fast", "logits moved by later tokens"],
        rows=[
            [
                name,
                f"{last[name][0]:.4f}",
                f"{seconds[name]:.1f} s",
                f"{seconds['published'] / seconds[name]:.2f}",
                figure(known[name]) if name in known else "-",
            ]
            for name in pair.parts
        ],
        plot=Plot(
            x="step", y="training loss, nats", x_log=False, y_log=False, dashed=("published",),
            series={name: done.curve() for name, done in found[0].items()},
        ),
        setup=(
            f"{plan.steps} steps of {BATCH} rows of {pair.length} tokens, each row drawn from {DRAWN} of {SYMBOLS} symbols: "
            f"{math.log(DRAWN):.2f} nats for whoever has seen the row, {bound:.2f} or more without attention; width 64, 2 layers of "
            f"2 heads; "
            f"{len(found)} seeds, the curves of the first; the runs one after another"
        ),
    )  # fmt: skip
