"""Cross-entropy straight from hidden states, so that the logits of a long sequence never exist whole.

The gradients of a chunk follow from its logits at once, so forward takes them along: no logit is computed twice, and none is kept.

Axes: T tokens (batch and length together), D width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.backend import is_traced
from ..core.numerics import exact_dtype, no_autocast
from ..core.recomputation import hold, recomputed
from ..core.tracing import needs_gradient
from ..kernels.derivatives import differentiable, is_transformed, keep, kept
from ..layers.linear.op import linear, outer_sum

IGNORE = -100  # PyTorch's: a target that is not counted
Output = Tensor | Callable[[Tensor], Tensor]
AT_ONCE = 1 << 21  # logits: fewer, and the gradient of the weight is read and written too often


def chunked_cross_entropy(
    hidden: Tensor, output: Output, targets: Tensor, *, vocab_size: int | None = None, logits_at_once: int = AT_ONCE
) -> Tensor:
    """Mean over the counted targets of -log softmax(logits)[target].

    Args:
        hidden: (T, D).
        output: the weight (V, D), or a function from (T', D) to logits (T', V): a module that is to be called. It is called once, or, with
            more logits than are held at a time, once a chunk, and in backward again.
        targets: (T,) int64 in [0, V), or -100 for a position that does not count.
        vocab_size: V, with a function.
        logits_at_once: most logits to hold at a time.

    Returns:
        Scalar in nats, float32 (float64 for float64 inputs); 0 with no counted target.
    """
    if isinstance(output, Tensor) and needs_gradient(hidden, output) and not is_traced():
        return _Loss.apply(hidden, output, targets, logits_at_once, _matmul_dtype(hidden))
    return _by_formula(hidden, output, targets, _width(output, vocab_size), logits_at_once)


def _by_formula(hidden: Tensor, output: Output, targets: Tensor, vocab_size: int, logits_at_once: int) -> Tensor:
    total = torch.zeros((), device=hidden.device, dtype=exact_dtype(hidden))
    held = hold(output) if isinstance(output, nn.Module) else hold()
    for piece, wanted in _chunks(hidden, targets, vocab_size, logits_at_once):
        if len(piece) < len(hidden) and torch.is_grad_enabled() and not is_transformed():
            total = total + recomputed(held, _summed, piece, output, wanted)
        else:
            total = total + _summed(piece, output, wanted)
    return total / (targets != IGNORE).sum().clamp_min(1)


def _width(output: Output, vocab_size: int | None) -> int:
    if isinstance(output, Tensor):
        return output.shape[0]
    if vocab_size is None:
        raise ValueError("vocab_size is required where output is a function: how many logits it gives for a position")
    return vocab_size


def _chunks(hidden: Tensor, targets: Tensor, vocab_size: int, logits_at_once: int) -> list[tuple[Tensor, Tensor]]:
    size = max(1, logits_at_once // vocab_size)
    return list(zip(hidden.split(size), targets.split(size), strict=True))


def _composition(hidden: Tensor, weight: Tensor, targets: Tensor, logits_at_once: int, low: torch.dtype) -> Tensor:
    return _by_formula(hidden.to(low), weight, targets, weight.shape[0], logits_at_once)


class _Loss(torch.autograd.Function):
    """Keeps the gradients for an incoming gradient of 1 per counted target: (T, D) and (V, D)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, logits_at_once: int, low: torch.dtype) -> Tensor:
        exact, given = exact_dtype(hidden), (hidden, weight, targets, logits_at_once, low)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        rows, kept, counted = hidden, None, targets != IGNORE
        count: Any = counted.sum()
        if _may_ask(targets):
            count = int(count)
            if count < len(targets):
                kept = counted.nonzero()[:, 0]
                rows, targets = hidden[kept], targets[kept]
        count = count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1)
        total, d_rows, d_weight, factors = None, [], None, weight.to(low)
        with no_autocast(hidden):
            for piece, wanted in _chunks(rows.to(low), targets, weight.shape[0], logits_at_once):
                nats, gradient = _nats_and_gradient(linear(piece, factors).to(exact), wanted)
                total, gradient = nats if total is None else total + nats, gradient.to(low)
                if wants_hidden:
                    d_rows.append(linear(gradient, factors.T))
                if wants_weight:
                    d_weight = _add(d_weight, gradient, piece, exact)
        d_hidden = None
        if wants_hidden:
            d_hidden = d_rows[0] if len(d_rows) == 1 else torch.cat(d_rows)
            if kept is not None:
                d_hidden = d_hidden.new_zeros(hidden.shape).index_copy_(0, kept, d_hidden)
        assert total is not None
        keep(ctx, given, d_hidden, d_weight)
        ctx.count = count
        return total / count

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        given, made = kept(ctx)
        scale = gradient / ctx.count
        d_hidden, d_weight = (None if sums is None else (sums * scale).to(x.dtype) for sums, x in zip(made, given, strict=False))
        return d_hidden, d_weight, None, None, None


@torch.no_grad()
def chunked_token_losses(
    hidden: Tensor, output: Output, targets: Tensor, *, vocab_size: int | None = None, logits_at_once: int = AT_ONCE
) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[target] of every target by itself, and whether it was the most likely; without gradients.

    Args:
        hidden: (T, D).
        output, vocab_size: as in :func:`chunked_cross_entropy`.
        targets: (T,) int64 in [0, V).
        logits_at_once: most logits to hold at a time.

    Returns:
        (T,) nats, float32 (float64 for float64 inputs), and (T,) bool.
    """
    nats, right = [], []
    for piece, wanted in _chunks(hidden, targets, _width(output, vocab_size), logits_at_once):
        logits = _exact_logits(piece, output)
        nats.append(F.cross_entropy(logits, wanted, reduction="none"))
        right.append(logits.argmax(dim=-1) == wanted)
    return torch.cat(nats), torch.cat(right)


def _summed(hidden: Tensor, output: Output, targets: Tensor) -> Tensor:
    return F.cross_entropy(_exact_logits(hidden, output), targets, ignore_index=IGNORE, reduction="sum")


def _exact_logits(hidden: Tensor, output: Output) -> Tensor:
    logits = linear(hidden, output.to(hidden.dtype)) if isinstance(output, Tensor) else output(hidden)
    return logits.to(exact_dtype(logits))


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
    ignored = None if _may_ask(targets) else (targets == IGNORE)[:, None]
    places = targets[:, None] if ignored is None else targets[:, None].masked_fill(ignored, 0)
    gradient = logits.softmax(dim=-1)
    # The normaliser from the likeliest token, whose probability is at least 1 / V: one exponential a logit, instead of two.
    nats = logits.amax(dim=-1, keepdim=True) - logits.gather(1, places) - gradient.amax(dim=-1, keepdim=True).log_()
    gradient.scatter_(1, places, nats.neg().expm1_())
    if ignored is not None:
        nats, gradient = nats.masked_fill_(ignored, 0.0), gradient.masked_fill_(ignored, 0.0)
    return nats.sum(), gradient


def _add(total: Tensor | None, gradient: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """total + gradient^T rows, in ``dtype``."""
    more = outer_sum(gradient, rows).to(dtype)
    return more if total is None else total.add_(more)


def cross_entropy_reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The definition, token by token. The oracle of the tests."""
    losses = [-(weight @ h).log_softmax(dim=-1)[t] for h, t in zip(hidden, targets, strict=True) if t != IGNORE]
    return torch.stack(losses).mean() if losses else hidden.sum() * 0.0
