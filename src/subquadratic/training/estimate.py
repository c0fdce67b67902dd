"""What a run will need, before it starts: refuse what cannot fit, and `--dry_run`."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from typing import Any

import torch

from ..costs.cost import ALLOWANCE, TrainingCost, training_cost
from ..costs.memory import available_memory
from ..evaluation.report import size
from .display import PlainDisplay, clock
from .optimizer import make_optimizer
from .options import TrainOptions
from .precision import forward_precision, trains_in_bfloat16
from .problems.problem import Problem

SMALL = 1 << 28  # bytes; models and batches that surely fit are not counted
COUNTED = 1 << 17  # tokens of a batch; in larger ones the rest is taken to be alike
WARM, TIMED = 2, 5  # steps


def check_memory(problem: Problem, options: TrainOptions) -> None:
    """Build the model without its memory, count, and compare with what there is.

    Raises:
        ValueError: it does not fit; says how much it needs and how much there is.
    """
    room = available_memory(run_device())
    if (least := _at_least(options)) > room:  # to count a model of millions of layers, or of features, takes hours
        raise ValueError(
            f"model: training needs more than {size(least)}, but {size(room)} are available: give a smaller --dim or --depth, "
            "or smaller --fields"
        )
    try:
        with torch.device("meta"):
            model = problem.build()
    except (RuntimeError, OverflowError, MemoryError) as error:  # sizes beyond what 64 bits can count
        raise ValueError(f"model: larger than any memory ({error}): give a smaller --dim, --depth or --context") from error
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    # Some hundred numbers a token, layer and channel: a guess that is never too low by much, to spare the count where it cannot matter.
    assert options.dim and options.depth and options.batch_size
    guess = 4 * weights + options.batch_size * problem.tokens * options.dim * options.depth * 400
    if max(guess, SMALL) <= room // 4:
        return
    cost = step_cost(model, problem, options)
    if cost.total_bytes > room:
        raise ValueError(
            f"model: training needs about {size(cost.total_bytes)} ({_parts(cost, options)}), but {size(room)} are available: "
            "give a smaller --dim, --depth, --context or --batch_size, or --checkpointing"
        )


def _at_least(options: TrainOptions) -> int:
    """Bytes that any of our models surely needs by its sizes alone; features also for each of a chunk's tokens, of which there are 64."""
    assert options.dim and options.depth
    sizes = {name: value for name in ("ff_mult", "features", "slots") if isinstance(value := options.fields.get(name), int) and value > 0}
    layer = options.dim * options.dim * (1 + sizes.get("ff_mult", 0))
    return 4 * (options.depth * layer + 64 * sizes.get("features", 0) + sizes.get("slots", 0))


def dry_run(problem: Problem, options: TrainOptions, display: PlainDisplay) -> dict[str, Any]:
    """Shapes, parameters, memory, and time from a few measured steps; nothing is written. What was said, as plain values."""
    torch.manual_seed(options.seed)
    model = problem.build().to(run_device())
    cost = step_cost(model, problem, options)
    room = available_memory(run_device())
    display.say("parameters")
    for name, shape, count in _shapes(model):
        display.say(f"  {count:>12,}  {shape:<18} {name}")
    display.say(f"  {cost.parameters:>12,}  in all")
    display.say(f"memory      about {size(cost.total_bytes)} of {size(room)} available: {_parts(cost, options)}")
    seconds_each = step_seconds(model, problem, options)
    tokens = problem.tokens * (options.batch_size or 1) * options.accumulation
    steps = options.max_steps
    budget = options.seconds()
    by_clock = None if budget is None else max(1, int(0.87 * budget / seconds_each))  # the rest: validation, writing, starting
    steps = by_clock if steps is None else steps if by_clock is None else min(steps, by_clock)
    assert steps is not None
    epochs = steps * tokens / problem.size
    display.say(f"step        {seconds_each * 1e3:.0f} ms for {tokens:,} tokens ({tokens / seconds_each:,.0f} tokens/s, median of {TIMED})")
    read = f"{steps * tokens:,} tokens, {epochs:.2f} of the training data"
    display.say(f"run         about {steps:,} steps in {clock(steps * seconds_each)}: {read}")
    display.say("no run folder was written; leave --dry_run out to train")
    found = {
        "parameters": cost.parameters,
        "memory_bytes": cost.total_bytes,
        "available_bytes": room,
        "step_seconds": seconds_each,
        "steps": steps,
        "tokens": steps * tokens,
        "epochs": epochs,
    }
    display.report("dry_run", None, **found)
    return found


def step_cost(model: Any, problem: Problem, options: TrainOptions) -> TrainingCost:
    """What a training step takes; of a batch of very many tokens, from a smaller one."""
    length = problem.tokens if problem.kind != "sequence_to_sequence" else math.ceil(problem.tokens / 2)
    batch = options.batch_size or 1
    counted = min(batch, max(1, COUNTED // length))
    precision = "bfloat16" if trains_in_bfloat16(options.precision) else "float32"
    cost = training_cost(model, batch_size=counted, length=length, precision=precision)
    if counted == batch:
        return cost
    grown = {name: int(getattr(cost, name) * batch / counted) for name in ("activation_bytes", "temporary_bytes", "forward_flops", "flops")}
    more = grown["activation_bytes"] + grown["temporary_bytes"] - cost.activation_bytes - cost.temporary_bytes
    return dataclasses.replace(cost, **grown, total_bytes=int(cost.total_bytes + ALLOWANCE * more), extrapolated=True)


def _parts(cost: TrainingCost, options: TrainOptions) -> str:
    average = ", its moving average the weights again" if options.ema is not None else ""
    return (
        f"weights {size(cost.parameter_bytes)}, gradients {size(cost.gradient_bytes)}, optimizer "
        f"{size(cost.optimizer_bytes)}, activations {size(cost.activation_bytes + cost.temporary_bytes)}{average}"
    )


def _shapes(model: Any) -> list[tuple[str, str, int]]:
    """(name, shape, numbers) of every parameter; those of all layers but the first in one line."""
    rows: dict[tuple[str, str], list[int]] = {}
    for name, parameter in model.named_parameters():
        generic = ".".join("*" if part.isdigit() and before == "blocks" else part for before, part in _pairs(name.split(".")))
        rows.setdefault((generic, " × ".join(map(str, parameter.shape)) or "scalar"), []).append(parameter.numel())
    many = {key: f"  ({len(counts)} of them)" if len(counts) > 1 else "" for key, counts in rows.items()}
    return [(key[0] + many[key], key[1], sum(counts)) for key, counts in rows.items()]


def _pairs(parts: list[str]) -> list[tuple[str, str]]:
    return list(zip(["", *parts], parts, strict=False))


def step_seconds(model: Any, problem: Problem, options: TrainOptions) -> float:
    """The median of a few training steps, with a learning rate that changes little."""
    assert options.learning_rate and options.batch_size
    optimizer = make_optimizer(model, learning_rate=options.learning_rate * 1e-3, weight_decay=options.weight_decay)
    device = next(model.parameters()).device
    times = []
    data = problem.train
    for step in range(WARM + TIMED):
        items = [data[(step * options.batch_size + i) % len(data)] for i in range(options.batch_size)]
        batch = {name: value.to(device) for name, value in problem.collate(items).items()}
        started = time.perf_counter()
        for _ in range(options.accumulation):
            with forward_precision(options.precision):
                loss = problem.loss(model, batch)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARM:])


def run_device() -> str:
    """Where a run computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"
