"""Cross-entropy straight from hidden states, so that the logits of a long sequence never exist whole.

The gradients of a chunk follow from its logits at once, so forward takes them along: no logit is computed twice, and none is kept.

Axes: T tokens (batch and length together), D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .linear import linear
from .precision import exact_dtype, no_autocast

IGNORE = -100  # PyTorch's: a target that is not counted
AT_ONCE = 1 << 22  # logits: fewer, and the gradient of the weight is read and written too often


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, logits_at_once: int = AT_ONCE) -> Tensor:
    """Mean over the counted targets of -log softmax(hidden weight^T)[target].

    Args:
        hidden: (T, D).
        weight: (V, D).
        targets: (T,) int64 in [0, V), or -100 for a position that does not count.
        logits_at_once: most logits to hold at a time.

    Returns:
        Scalar in nats, float32 (float64 for float64 inputs); 0 with no counted target. It can be differentiated once.
    """
    inputs = (hidden, weight)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs) and not _traced():
        return _Loss.apply(hidden, weight, targets, logits_at_once)
    total = torch.zeros((), device=hidden.device, dtype=exact_dtype(hidden))
    for piece, wanted in _chunks(hidden, targets, weight, logits_at_once):
        if len(piece) < len(hidden) and torch.is_grad_enabled():
            total = total + checkpoint(_summed, piece, weight, wanted, use_reentrant=False)
        else:
            total = total + _summed(piece, weight, wanted)
    return total / (targets != IGNORE).sum().clamp_min(1)


def _traced() -> bool:
    """Whether a compiler or a function transform follows the operations one by one."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _chunks(hidden: Tensor, targets: Tensor, weight: Tensor, logits_at_once: int) -> list[tuple[Tensor, Tensor]]:
    size = max(1, logits_at_once // weight.shape[0])
    return list(zip(hidden.split(size), targets.split(size), strict=True))


class _Loss(torch.autograd.Function):
    """Keeps the gradients for an incoming gradient of 1 per counted target: (T, D) and (V, D)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, logits_at_once: int) -> Tensor:
        low, exact = _matmul_dtype(hidden), exact_dtype(hidden)
        counted, rows, kept = targets != IGNORE, hidden, None
        if _may_ask(targets) and not counted.all():
            kept = counted.nonzero()[:, 0]
            rows, targets = hidden[kept], targets[kept]
        d_rows = torch.empty(rows.shape, dtype=hidden.dtype, device=hidden.device) if ctx.needs_input_grad[0] else None
        d_weight, factors = None, weight.to(low)
        total = torch.zeros((), device=hidden.device, dtype=exact)
        start = 0
        with no_autocast(hidden):
            for piece, wanted in _chunks(rows.to(low), targets, weight, logits_at_once):
                nats, gradient = _nats_and_gradient(linear(piece, factors).to(exact), wanted)
                total += nats
                gradient, stop = gradient.to(low), start + len(piece)
                if d_rows is not None:
                    d_rows[start:stop] = linear(gradient, factors.T)
                if ctx.needs_input_grad[1]:
                    d_weight = _add(d_weight, gradient.T, piece, exact)
                start = stop
        d_hidden = d_rows
        if d_rows is not None and kept is not None:
            d_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format).index_copy_(0, kept, d_rows)
        count = counted.sum().clamp_min(1)
        ctx.save_for_backward(count, *(tensor for tensor in (d_hidden, d_weight) if tensor is not None))
        ctx.dtypes = (hidden.dtype, weight.dtype)
        return total / count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("chunked_cross_entropy can be differentiated once: call backward without create_graph=True")
        count, *sums = ctx.saved_tensors
        scale = gradient / count
        found = iter(sums)
        return (
            *(
                (next(found) * scale).to(dtype) if wanted else None
                for wanted, dtype in zip(ctx.needs_input_grad[:2], ctx.dtypes, strict=True)
            ),
            None,
            None,
        )


@torch.no_grad()
def chunked_token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, *, logits_at_once: int = AT_ONCE) -> tuple[Tensor, Tensor]:
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
    for piece, wanted in _chunks(hidden, targets, weight, logits_at_once):
        logits = linear(piece, weight.to(piece.dtype))
        logits = logits.to(exact_dtype(logits))
        nats.append(F.cross_entropy(logits, wanted, reduction="none"))
        right.append(logits.argmax(dim=-1) == wanted)
    return torch.cat(nats), torch.cat(right)


def _summed(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = linear(hidden, weight.to(hidden.dtype))
    return F.cross_entropy(logits.to(exact_dtype(logits)), targets, ignore_index=IGNORE, reduction="sum")


def _may_ask(targets: Tensor) -> bool:
    """Whether to look which targets count, and leave out the others' rows: not on devices that would stop for the answer, nor where
    tensors have shapes only."""
    return targets.device.type == "cpu" and type(targets) is Tensor


def _matmul_dtype(tensor: Tensor) -> torch.dtype:
    """That of autocast where it is on; it lets float64 be."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) and tensor.dtype != torch.float64 else tensor.dtype


def _nats_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The summed loss of (T, V) logits and what its gradient is for them: probabilities, less 1 at the target."""
    logarithms = logits.log_softmax(dim=-1)
    ignored = None if _may_ask(targets) else (targets == IGNORE)[:, None]
    places = targets[:, None] if ignored is None else targets[:, None].masked_fill(ignored, 0)
    found = logarithms.gather(1, places)
    gradient = logarithms.exp_().scatter_(1, places, found.expm1())
    if ignored is not None:
        found, gradient = found.masked_fill_(ignored, 0.0), gradient.masked_fill_(ignored, 0.0)
    return -found.sum(), gradient


def _add(total: Tensor | None, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """total + a b, in ``dtype``."""
    if total is None:
        return (a @ b).to(dtype)
    return total.addmm_(a, b) if a.dtype == dtype else total.add_(a @ b)


def cross_entropy_reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The definition, token by token. The oracle of the tests."""
    losses = [-(weight @ h).log_softmax(dim=-1)[t] for h, t in zip(hidden, targets, strict=True) if t != IGNORE]
    return torch.stack(losses).mean() if losses else hidden.sum() * 0.0
