"""What is minimised and what is measured: next tokens for causal models, masked tokens for the others."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

MASK_PROBABILITY = 0.15


class Objective(nn.Module):
    """`forward(tokens) -> {"loss": mean nats per predicted token}`: what the Trainer wraps and calls.

    The Trainer writes into a `config` it finds and, where `forward` takes any keywords, hands the division by the number
    of accumulated batches to the model. Behind this module it finds neither, and divides the mean losses itself.
    """

    accepts_loss_kwargs = False

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        return {"loss": self.model.loss(tokens)}  # type: ignore[operator]


@dataclass(frozen=True)
class Score:
    """A validation: bits per predicted token, the share predicted right (masked models only), and how many those were."""

    bits: float
    accuracy: float | None
    predicted: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        values = {"validation_bits_per_byte": self.bits, "validation_predicted": self.predicted}
        return values if self.accuracy is None else {**values, "validation_accuracy": self.accuracy}


def predictions_per_window(model: Any, length: int) -> int:
    """How many tokens of a window of `length` a causal model predicts; Perceiver AR only the last `latents`."""
    return min(length - 1, getattr(model.config, "latents", length))


@torch.no_grad()
def validate(model: Any, windows: Dataset[Tensor], *, batch_size: int, seed: int) -> Score:
    """The score of `model` on every window, in eval mode; the masks depend on `seed` and the window's place alone."""
    started, training = time.monotonic(), model.training
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    nats, right, predicted = 0.0, 0, 0
    model.eval()
    try:
        for tokens in DataLoader(windows, batch_size=batch_size):
            if model.config.causal:
                count = len(tokens) * predictions_per_window(model, tokens.shape[1])
                nats += model.loss(tokens.to(device)).item() * count
            else:
                masked = torch.rand(tokens.shape, generator=generator) < MASK_PROBABILITY
                logits = model(tokens.to(device), masked=masked.to(device))[masked].float()
                count = int(masked.sum())
                nats += F.cross_entropy(logits, tokens[masked].to(device), reduction="sum").item()
                right += int((logits.argmax(-1).cpu() == tokens[masked]).sum())
            predicted += count
    finally:
        model.train(training)
    accuracy = None if model.config.causal else right / max(predicted, 1)
    return Score(nats / max(predicted, 1) / math.log(2), accuracy, predicted, time.monotonic() - started)


def evenly(windows: Any, count: int) -> Dataset[Tensor]:
    """At most `count` of the windows, spread evenly over all of them."""
    if len(windows) <= count:
        return windows
    return Subset(windows, [i * len(windows) // count for i in range(count)])
