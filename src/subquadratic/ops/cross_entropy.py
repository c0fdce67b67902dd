"""Cross-entropy straight from hidden states, so that the logits of a long sequence never exist whole.

Axes: T tokens (batch and length together), D width, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .precision import exact_dtype

IGNORE = -100  # PyTorch's: a target that is not counted


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, logits_at_once: int = 1 << 20) -> Tensor:
    """Mean over the counted targets of -log softmax(hidden weight^T)[target].

    Args:
        hidden: (T, D).
        weight: (V, D).
        targets: (T,) int64 in [0, V), or -100 for a position that does not count.
        logits_at_once: most logits to hold at a time; each chunk is computed again in backward.

    Returns:
        Scalar in nats, float32 (float64 for float64 inputs); 0 with no counted target.
    """
    vocabulary = weight.shape[0]
    step = max(1, logits_at_once // vocabulary)
    total = torch.zeros((), device=hidden.device, dtype=exact_dtype(hidden))
    for start in range(0, hidden.shape[0], step):
        piece = (hidden[start : start + step], weight, targets[start : start + step])
        if hidden.shape[0] > step and torch.is_grad_enabled():
            total = total + checkpoint(_summed, *piece, use_reentrant=False)
        else:
            total = total + _summed(*piece)
    return total / (targets != IGNORE).sum().clamp_min(1)


@torch.no_grad()
def chunked_token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, *, logits_at_once: int = 1 << 20) -> tuple[Tensor, Tensor]:
    """-log softmax(hidden weight^T)[target] of every target by itself, and whether it was the likeliest; without gradients.

    Args:
        hidden: (T, D).
        weight: (V, D).
        targets: (T,) int64 in [0, V).
        logits_at_once: most logits to hold at a time.

    Returns:
        (T,) nats, float32 (float64 for float64 inputs), and (T,) bool.
    """
    nats, right = [], []
    for piece, wanted in zip(*(x.split(max(1, logits_at_once // weight.shape[0])) for x in (hidden, targets)), strict=True):
        logits = F.linear(piece, weight.to(piece.dtype))
        logits = logits.to(exact_dtype(logits))
        nats.append(F.cross_entropy(logits, wanted, reduction="none"))
        right.append(logits.argmax(dim=-1) == wanted)
    return torch.cat(nats), torch.cat(right)


def _summed(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight.to(hidden.dtype))
    return F.cross_entropy(logits.to(exact_dtype(logits)), targets, ignore_index=IGNORE, reduction="sum")


def cross_entropy_reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The definition, token by token. The oracle of the tests."""
    losses = [-(weight @ h).log_softmax(dim=-1)[t] for h, t in zip(hidden, targets, strict=True) if t != IGNORE]
    return torch.stack(losses).mean() if losses else hidden.sum() * 0.0
