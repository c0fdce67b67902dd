"""`distil`: from a folder with a model of transformers to another with its copy, whose attention is ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.schedule import Schedule
from ...layers.linear.layer import computed_here
from ..attention.options import ENTRY, PREFIX
from .costs import LAST, Peak, attention_costs, model_costs
from .endtoend import all_parameters, end_to_end_loss
from .layerwise import attention_parameters, layerwise_loss
from .measures import measure, score
from .models import Pair, open_pair
from .report import summary
from .saving import save
from .texts import Sampler, held_out_texts, read_texts, words_of

LAYERWISE = 0.3  # of the training
MEASURED = 256  # texts
VALIDATED = 48  # others of them, on which it is decided what is kept
FASTER = 3.0  # layers one by one learn so many times faster than the whole model
RATE = 2e-4  # of AdamW, for attention while the whole model learns,
REST = 0.3  # and so much of it for all other weights, which are right as they are and lose by every step that is mostly noise
WARMUP, CLIP = 0.1, 1.0
LOST = 20  # steps without a finite gradient that a part of the training stands


@dataclass
class Listener:
    """What hears of a distillation while it goes on; each may be replaced."""

    say: Callable[[str], None] = lambda text: None
    waiting: Callable[[str], None] = lambda text: None
    step: Callable[..., None] = lambda **values: None
    stop: Callable[[], bool] = lambda: False
    peak: Peak = lambda call: None


@dataclass
class Progress:
    """What came of the steps: how many, and the last loss of each part."""

    steps: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    kept: dict[str, bool] = field(default_factory=dict)
    """Whether a part made the model better on texts that are not trained on; what did not is undone."""
    tokens: int = 0


def distil(
    checkpoint: str | Path,
    out: str | Path,
    *,
    data: str | None = None,
    attention: str = "favor",
    options: dict[str, Any] | None = None,
    weights: str | Path | None = None,
    budget: float | None = 1800.0,
    steps: int | None = None,
    batch_size: int = 16,
    length: int = 128,
    layerwise: float = LAYERWISE,
    learning_rate: float = RATE,
    longest: int = LAST,
    seed: int = 0,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Swap the attention of a model of transformers, train the copy to give what the original gives, and save it.

    Args:
        checkpoint: folder of an encoder or a causal language model, as transformers or sentence-transformers saved it.
        out: folder of the result, which must not be there, or be empty.
        data: text, as :func:`subquadratic.load_corpus` takes it; None: docstrings and descriptions of the installed Python packages.
        attention: "favor", "linformer" (encoders) or "window".
        options: of it, fields of :class:`subquadratic.hf.attention.AttentionOptions`; its seed is ``seed`` unless given.
        weights: folder of an earlier result to go on from.
        budget: seconds in all, measuring included; None: no limit.
        steps: optimizer steps in all; None: no limit. What comes first ends the training.
        batch_size: texts of a step.
        length: tokens of the longest texts.
        layerwise: share of the training that goes to attention layers one by one, the rest to the whole model.
        learning_rate: peak for attention in the whole model's training; its other weights learn at 0.3 of that, and attention layers
            one by one at three times that.
        longest: tokens up to which time and memory are measured.
        seed: of texts and projections.
        listener: hears what goes on, and may stop it.

    Returns:
        What distil.json holds.

    Raises:
        ValueError: for a model, data or values that cannot be used.
        NotImplementedError: if the model's attention cannot be replaced by this one.
        FloatingPointError: if the loss became infinite or NaN.
        OSError: if the result cannot be written.
    """
    started, listener = time.monotonic(), listener or Listener()
    if budget is None and steps is None:
        raise ValueError("budget and steps cannot both be None: the training would never end")
    torch.manual_seed(seed)
    listener.waiting("opening the model")
    pair = open_pair(Path(checkpoint), None if weights is None else Path(weights), PREFIX + attention, {"seed": seed, **(options or {})})
    length = min(length, pair.length)
    listener.waiting("reading the data")
    texts = read_texts(data)
    listener.say(f"data        {texts.name}: {len(texts.train):,} + {len(texts.held_out):,} paragraphs to train + measure on")
    listener.say(f"model       {type(pair.teacher).__name__}, {len(pair.attention)} attention layers by {attention}, of {checkpoint}")
    held = held_out_texts(texts, length=length, count=MEASURED, seed=seed)
    listener.waiting("measuring")
    aside = time.monotonic()
    before = measure(pair, held, length)
    aside = time.monotonic() - aside
    listener.say(f"swapped     {summary(before)}")
    costs = {"model": model_costs(pair, listener.peak, longest), "attention": attention_costs(pair, listener.peak, longest)}
    sampler = Sampler(texts.train, words_of(pair.tokenizer), length=length, seed=seed)
    left = None if budget is None else max(1.0, budget - (time.monotonic() - started) - aside * 1.2)
    rates = {"layerwise": FASTER * learning_rate, "end to end": learning_rate}
    validation = held_out_texts(texts, length=length, count=VALIDATED, seed=seed + 1)
    with computed_here(pair.teacher, pair.student):
        progress = _train(pair, sampler, listener, left, steps, batch_size, length, layerwise, rates, validation)
    listener.waiting("measuring")
    after = measure(pair, held, length)
    listener.say(f"distilled   {summary(after)}")
    content = {
        "checkpoint": str(checkpoint), "attention": attention, "options": options_in(pair.student), "data": texts.name,
        "seed": seed, "batch_size": batch_size, "length": length, "steps": progress.steps, "tokens": progress.tokens,
        "losses": progress.losses, "kept": progress.kept, "seconds": round(time.monotonic() - started, 1), "interrupted": listener.stop(),
        "threads": torch.get_num_threads(), "measured_on": len(held), "swapped": before, "distilled": after, "costs": costs,
    }  # fmt: skip
    save(pair, Path(checkpoint), Path(out), content)
    return content


def options_in(model: Any) -> dict[str, Any]:
    """Those of our attention, in a model's configuration."""
    return dict(getattr(model.config, ENTRY))


def _train(
    pair: Pair, sampler: Sampler, listener: Listener, seconds: float | None, steps: int | None, batch_size: int, length: int,
    layerwise: float, rates: dict[str, float], validation: list[str],
) -> Progress:  # fmt: skip
    progress, started = Progress(), time.monotonic()
    parts: list[tuple[str, float, Any, Any]] = [
        ("layerwise", layerwise, layerwise_loss, attention_parameters),
        ("end to end", 1.0, end_to_end_loss, all_parameters),
    ]
    for parameter in pair.student.parameters():
        parameter.requires_grad_(False)
    best = score(pair, validation, length)
    for name, share, loss_of, parameters_of in parts:
        left = None if seconds is None else seconds - (time.monotonic() - started)
        some = None if steps is None else steps - sum(progress.steps.values())
        limits = None if some is None else round(some * share), None if left is None else left * share
        progress.steps[name] = 0
        if share <= 0 or 0 in limits or (limits[1] is not None and limits[1] <= 0):
            continue
        schedule = Schedule(max_steps=limits[0], seconds=limits[1], warmup=WARMUP)
        parameters = parameters_of(pair)
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = _optimizer(parameters, attention_parameters(pair), rates[name])
        before = [parameter.detach().clone() for parameter in parameters]
        _part(name, pair, sampler, listener, schedule, optimizer, loss_of, batch_size, length, progress)
        listener.waiting("measuring")
        now = score(pair, validation, length)
        progress.kept[name] = now >= best
        if now < best:
            listener.say(f"left out    {name}: it made the model worse, perhaps for want of time; it goes on as before it")
            with torch.no_grad():
                for parameter, earlier in zip(parameters, before, strict=True):
                    parameter.copy_(earlier)
        best = max(now, best)
        if listener.stop():
            break
    return progress


def _optimizer(parameters: list[nn.Parameter], attention: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """AdamW, in which ``rate`` is the peak for attention, and :data:`REST` of it for the others."""
    inside = {id(one) for one in attention}
    sides = ([one for one in parameters if (id(one) in inside) == wanted] for wanted in (True, False))
    groups = [{"params": side, "peak": rate * share} for side, share in zip(sides, (1.0, REST), strict=True) if side]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)


def _part(
    name: str, pair: Pair, sampler: Sampler, listener: Listener, schedule: Schedule, optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Pair, dict[str, Tensor]], Tensor], batch_size: int, length: int, progress: Progress,
) -> None:  # fmt: skip
    """One part of the training, to the end of its schedule or a signal."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    step, smooth = 0, None
    before, started, lost = progress.tokens, time.monotonic(), 0
    while schedule.progress(step) < 1 and not listener.stop():
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * schedule.factor(step)
        inputs = pair.encode(sampler.batch(batch_size), length)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(pair, inputs)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, CLIP)
        step += 1
        if not torch.isfinite(norm) or not torch.isfinite(loss):  # such a step would spoil every weight
            lost += 1
            if lost > LOST:
                raise FloatingPointError(f"{lost} steps of the part {name} had no finite gradient: give a smaller learning rate")
            continue
        optimizer.step()
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        progress.steps[name], progress.losses[name] = step, smooth
        progress.tokens += int(inputs["attention_mask"].sum())
        speed = (progress.tokens - before) / max(time.monotonic() - started, 1e-9)
        done, left = schedule.progress(step), schedule.remaining(step)
        listener.step(part=name, step=step, loss=smooth, speed=speed, left=left, progress=done)
