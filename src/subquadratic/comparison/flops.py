"""Floating-point operations of a training step, forward and backward."""

from __future__ import annotations

import math
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from ..costs.cost import training_cost
from ..training.options import TrainOptions
from ..training.problems.problem import Problem
from .foreign import ForeignModel


def training_flops(model: Any, problem: Problem, options: TrainOptions) -> float:
    """Of one batch. Models of this package are run on shapes (`costs/`); another's makes a real step, in which PyTorch's counter sees the
    products that it knows (matrix products, convolutions, fused attention)."""
    batch_size = options.batch_size or 1
    if not isinstance(model, ForeignModel):
        length = problem.tokens if problem.kind != "sequence_to_sequence" else math.ceil(problem.tokens / 2)
        return float(training_cost(model, batch_size=batch_size, length=length).flops)
    device = next(model.parameters()).device
    batch = problem.collate([problem.train[i % len(problem.train)] for i in range(batch_size)])
    with FlopCounterMode(display=False) as counter:
        problem.loss(model, {name: value.to(device) for name, value in batch.items()}).backward()
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())
