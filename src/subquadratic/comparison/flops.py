"""Floating-point operations of a training step of a module that cannot be run on shapes alone."""

from __future__ import annotations

from torch.utils.flop_counter import FlopCounterMode

from ..training.options import TrainOptions
from ..training.problems.problem import Problem
from .foreign import ForeignModel


def counted_flops(model: ForeignModel, problem: Problem, options: TrainOptions) -> float:
    """Of one batch, forward and backward: a real step, in which PyTorch's counter sees the products that it knows (matrix products,
    convolutions, fused attention)."""
    device = next(model.parameters()).device
    batch = problem.collate([problem.train[i % len(problem.train)] for i in range(options.batch_size or 1)])
    with FlopCounterMode(display=False) as counter:
        problem.loss(model, {name: value.to(device) for name, value in batch.items()}).backward()
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())
