"""What keeps a claim about a trained model honest: the same model without its attention, whether a causal one reads the future, and how
far a number may be from what another seed gives.

Axes: B batch, N length, L outputs, D width, V vocabulary.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from ...attention.additive.layer import AdditiveAttention
from ...attention.favor.layer import FavorAttention
from ...attention.feedback.layer import FeedbackAttention
from ...attention.gated_linear.layer import GatedLinearAttention
from ...attention.latent.layer import LatentAttention
from ...attention.low_rank.layer import LowRankAttention
from ...attention.softmax.layer import SoftmaxAttention

ATTENTION = (
    AdditiveAttention,
    FavorAttention,
    FeedbackAttention,
    GatedLinearAttention,
    LatentAttention,
    LowRankAttention,
    SoftmaxAttention,
)


def without_attention_(model: Any) -> Any:
    """A control: the output of every attention layer of the model is multiplied by zero; nothing else is another.

    Raises:
        ValueError: the model has none of the package's attention layers.
    """
    layers = [module for module in model.modules() if isinstance(module, ATTENTION)]
    if not layers:
        raise ValueError(f"this {type(model).__name__} has no attention layer of this package to switch off")
    for layer in layers:
        layer.register_forward_hook(_nothing)
    return model


def _nothing(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output * 0


@torch.no_grad()
def leak(read: Callable[[Tensor], Tensor], tokens: Tensor, *, other: Callable[[Tensor], Tensor] = lambda late: (late + 100) % 256) -> float:
    """How far outputs of a causal model move when the last quarter of the tokens, which they may not see, become others.

    Args:
        read: (B, N) tokens -> (B, L, V) outputs, aligned right.
        tokens: (B, N) int64.
        other: what the late tokens become.
    """
    if isinstance(read, nn.Module):
        read.eval()
    late = tokens.shape[1] // 4
    changed = torch.cat((tokens[:, :-late], other(tokens[:, -late:])), dim=1)
    return float((read(changed) - read(tokens))[:, :-late].abs().max())


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean of what several seeds or windows gave, and half of its 95% t-interval; NaN for that of a single value."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return mean, math.nan
    return mean, float(stdtrit(count - 1, 0.975)) * statistics.stdev(values) / math.sqrt(count)
