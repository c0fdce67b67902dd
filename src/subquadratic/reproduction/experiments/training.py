"""The loop that every trained claim shares: AdamW, warm-up and cosine, gradients clipped, losses kept.

Small on purpose: models of a published package and ours go through the very same lines.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...training.optimizer import make_optimizer
from ..claim import Diverged, Setting
from ..progress import Steps

WARM_UP = 0.05  # of the steps
FLOOR = 0.1  # of the learning rate, at the end
Batches = Callable[[int], dict[str, Any]]
Loss = Callable[[Any, dict[str, Any]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, and at what rate.

    Args:
        steps: optimizer steps.
        batch: sequences in each.
        rate: the highest learning rate.
        weight_decay: of matrices.
        clip: norm of the gradient at most.
        every: steps between two looks at `until`.
    """

    steps: int
    batch: int
    rate: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    every: int = 100


@dataclass(kw_only=True)
class Done:
    """What training gave: the loss of each step, in nats, and the seconds it took."""

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def last(self) -> float:
        """The mean of the last twentieth of the losses."""
        return statistics.fmean(self.losses[-max(1, len(self.losses) // 20) :])

    def curve(self, points: int = 40) -> list[tuple[float, float]]:
        """Step and mean loss of so many stretches."""
        size = max(1, len(self.losses) // points)
        parts = [self.losses[i : i + size] for i in range(0, len(self.losses) - size + 1, size)]
        return [(float((i + 1) * size), statistics.fmean(part)) for i, part in enumerate(parts)]


def own_loss(model: Any, batch: dict[str, Any]) -> Tensor:
    """Of our models, which know theirs."""
    return model.loss(**batch)


def train(
    model: nn.Module,
    batches: Batches,
    plan: Plan,
    setting: Setting,
    *,
    loss: Loss = own_loss,
    until: Callable[[], bool] | None = None,
    name: str = "",
) -> Done:
    """Train a model.

    Args:
        batches: gives the batch of a step, counted from 0.
        loss: of the model and a batch, to be differentiated.
        until: asked now and then; training ends where it says so.
        name: for what is said on the way.

    Raises:
        Diverged: a loss is NaN or infinite.
    """
    told = Steps(setting, name, plan.steps)
    optimizer = make_optimizer(model, learning_rate=plan.rate, weight_decay=plan.weight_decay)
    done, began = Done(), time.monotonic()
    model.train()
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * _share(step, plan.steps)
        value = loss(model, batches(step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
        done.losses.append(float(value.detach()))
        if not math.isfinite(done.losses[-1]):
            raise Diverged(f"{name or 'the model'}: the loss is {done.losses[-1]} at step {step + 1:,}")
        told.done(step + 1, lambda: f"loss {statistics.fmean(done.losses[-plan.every :]):.3f}")
        if until is not None and ((step + 1) % plan.every == 0 or step + 1 == plan.steps) and until():
            break
    done.seconds = time.monotonic() - began
    model.eval()
    return done


def seeded(setting: Setting, build: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """What `build(*given, **options)` gives, a model whose weights follow from the seed alone."""
    torch.manual_seed(setting.seed)
    return build(*given, **options)


def _share(step: int, steps: int) -> float:
    """Of the highest rate."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2
