"""The loss of a sequence whose hidden states are never held whole: streamed in stretches, each recomputed in backward.

Embedding, backbone, norm and loss of a stretch exist together, and nothing else does: what is kept of it is its tokens and the state
before it. A hidden state of a million tokens of width 256 takes a gigabyte, and a training step that holds them whole holds seven.

Axes: B batch, N length.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.numerics import exact_dtype
from ..core.recomputation import streamed
from ..kernels.derivatives import is_transformed
from ..layers.untouched import HOUSE, is_untouched
from .cross_entropy import IGNORE

Step = Callable[[Tensor, Tensor, Any], tuple[Tensor, Any]]


def goes_in_stretches(tokens: Tensor, embedding: nn.Module, backbone: nn.Module, norm: nn.Module) -> bool:
    """Whether the loss of (B, N) tokens may be streamed: the backbone would stream them itself, and nobody watches the parts, who would
    then see several calls."""
    asks = getattr(backbone, "streams_in_backward", None)
    parts = (embedding, backbone, norm)
    ours = all(is_untouched(part, type(part)) and _is_known(part) for part in parts)
    return ours and asks is not None and not is_transformed() and asks(*tokens.shape)


def loss_of_stretches(model: Any, tokens: Tensor, targets: Tensor, step: Step) -> Tensor:
    """Mean loss over the counted targets.

    Args:
        model: with a ``backbone`` that :func:`goes_in_stretches`.
        tokens, targets: (B, N) int64, targets -100 where nothing is predicted.
        step: (tokens, targets, state before) of a stretch -> (summed nats, state after), by modules of ``model``.

    Returns:
        Scalar in nats; 0 with no counted target.
    """
    size = model.backbone.stretch_length(len(tokens))
    pieces = zip(tokens.split(size, dim=1), targets.split(size, dim=1), strict=True)
    total = torch.stack(streamed(model, step, model.init_state(len(tokens)), pieces)).sum()
    return total / (targets != IGNORE).sum().clamp_min(1)


def _is_known(part: nn.Module) -> bool:
    return type(part).__module__.startswith(HOUSE) or type(part) is nn.LayerNorm


def summed(mean: Tensor, targets: Tensor) -> Tensor:
    """The sum that a mean over counted targets is of."""
    return mean * (targets != IGNORE).sum().to(exact_dtype(mean))
