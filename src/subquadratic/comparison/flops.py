"""Floating-point operations of a training step, where a run on shapes does not tell them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..training.options import TrainOptions
from ..training.problems.problem import Problem
from .foreign import ForeignModel

PER_WEIGHT = 6  # forward, the gradient of what comes in, and of the weight: a multiplication and an addition each


def counted_flops(model: ForeignModel, problem: Problem, options: TrainOptions) -> float:
    """Of one batch, forward and backward: a real step, in which PyTorch's counter sees the products that it knows (matrix products,
    convolutions, fused attention)."""
    device = next(model.parameters()).device
    batch = problem.collate([problem.train[i % len(problem.train)] for i in range(options.batch_size or 1)])
    with FlopCounterMode(display=False) as counter:
        problem.loss(model, {name: value.to(device) for name, value in batch.items()}).backward()
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def spared_flops(model: Any, problem: Problem, options: TrainOptions) -> float:
    """What a run on shapes counts too much of a masked model's step: which tokens are hidden is not known there, so that it takes logits of
    all of them, and the loss computes those of hidden ones alone."""
    if problem.kind != "language" or model.config.causal:
        return 0.0
    tokens = torch.zeros(options.batch_size or 1, problem.tokens, dtype=torch.int64)
    shown = tokens.numel() - int(model.count_predictions(tokens))
    return float(PER_WEIGHT * shown * model.config.dim * model.vocab_size)
