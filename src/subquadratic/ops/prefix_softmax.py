"""Softmax pooling: the softmax-weighted mean of a sequence, and at each position of everything up to it.

Fastformer's additive attention (arXiv 2108.09084, eqs. 3-5) and its causal half: a summary of the past is (maximum logit, sum of weights,
weighted sum), merged as in online softmax.

Axes: B batch, H heads, N length, K head width, G chunks, C chunk length.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import require_positive
from .precision import exact_dtype, no_autocast
from .state import State, state

EMPTY = -1e30  # the maximum of nothing: finite, so that differences are never NaN


@state
class PoolState(State):
    """Summary of the tokens seen so far; float32 (float64 for float64 inputs)."""

    maximum: Tensor  # (B, H, 1)
    weight: Tensor  # (B, H, 1)     sum of exp(logit - maximum)
    total: Tensor  # (B, H, K)     sum of exp(logit - maximum) * value


def empty_pool(batch: int, heads: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> PoolState:
    """The summary of no tokens."""
    zeros = torch.zeros(batch, heads, width + 1, device=device, dtype=dtype)
    return PoolState(torch.full_like(zeros[..., :1], EMPTY), zeros[..., :1].clone(), zeros[..., 1:].clone())


def softmax_mean(logits: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """sum_j softmax_j(logits) values_j over the real positions.

    Args:
        logits: (B, H, N).
        values: (B, H, N, K).
        mask: (B, N) bool, True = real token; None means all are.

    Returns:
        (B, H, 1, K) in the dtype of ``values``; zeros for a row with no real token.
    """
    exact = exact_dtype(logits, values)
    logits = logits.to(exact)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None], EMPTY)
        values = values.masked_fill(~mask[:, None, :, None], 0.0)
    with no_autocast(values):
        return (logits.softmax(dim=-1)[..., None, :] @ values.to(exact)).to(values.dtype)


def prefix_softmax_mean(
    logits: Tensor, values: Tensor, mask: Tensor | None = None, state: PoolState | None = None, *, chunk: int = 64
) -> tuple[Tensor, PoolState]:
    """Softmax-weighted running mean, y_i = sum_{j<=i} softmax_j(logits_{<=i}) values_j.

    Args:
        logits: (B, H, N) scores, any real number.
        values: (B, H, N, K).
        mask: (B, N) bool, True = real token; None means all are. Padded tokens weigh nothing.
        state: what came before; None at the start of a sequence.
        chunk: positions handled by one C x C matmul. Changes speed, not the result.

    Returns:
        (B, H, N, K) in the dtype of ``values`` (zeros where no real token has come yet), and the summary after the last token.

    Raises:
        ValueError: if the shapes of ``logits``, ``values`` and ``mask`` disagree, or ``chunk`` < 1.

    Cost O(N (C + K)) a head; memory O(N (C + K)). No weight of a later token is ever formed, so the future cannot leak, not even by
    rounding.
    """
    batch, heads, length, width = values.shape
    if logits.shape != (batch, heads, length):
        raise ValueError(f"logits must be {(batch, heads, length)} to match values, got {tuple(logits.shape)}")
    if mask is not None and mask.shape != (batch, length):
        raise ValueError(f"mask must be (batch, length) = {(batch, length)}, got {tuple(mask.shape)}")
    require_positive(chunk=chunk)

    exact, given = exact_dtype(logits, values), values.dtype
    logits, values = logits.to(exact), values.to(exact)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None], -torch.inf)
        values = values.masked_fill(~mask[:, None, :, None], 0.0)
    if state is None:
        state = empty_pool(batch, heads, width, device=values.device, dtype=exact)
    with no_autocast(values):
        output, state = _pool(logits, values, state, min(chunk, length))
    return output.to(given), state


def _pool(logits: Tensor, values: Tensor, state: PoolState, chunk: int) -> tuple[Tensor, PoolState]:
    length = logits.shape[-1]
    maximum = torch.maximum(logits.detach().cummax(dim=-1).values, state.maximum)  # (B, H, N), non-decreasing, EMPTY at least
    padding = -length % chunk
    logits = F.pad(logits, (0, padding), value=-torch.inf).unflatten(-1, (-1, chunk))  # (B, H, G, C)
    values = F.pad(values, (0, 0, 0, padding)).unflatten(-2, (-1, chunk))  # (B, H, G, C, K)
    maximum = (F.pad(maximum, (0, padding), mode="replicate") if padding else maximum).unflatten(-1, (-1, chunk))

    last = maximum[..., -1:]  # (B, H, G, 1)
    arriving = torch.cat((state.maximum[..., None, :], last[..., :-1, :]), dim=-2)
    summary = (logits - last).exp()  # (B, H, G, C): each token's weight at the end of its chunk
    sums = torch.cat((summary.sum(dim=-1, keepdim=True), (summary[..., None, :] @ values).squeeze(-2)), dim=-1)  # (B, H, G, 1 + K)
    before, after = _scan(sums, (arriving - last).exp(), torch.cat((state.weight, state.total), dim=-1))

    exponents = logits[..., None, :] - maximum[..., :, None]
    weights = exponents.masked_fill(_future(chunk, logits.device), -torch.inf).exp()  # (B, H, G, C, C)
    carried = (arriving - maximum).exp()[..., None]  # the past, rescaled to the new maximum
    weight = weights.sum(dim=-1, keepdim=True) + carried * before[..., None, :1]
    total = weights @ values + carried * before[..., None, 1:]
    output = torch.where(weight > 0, total / torch.where(weight > 0, weight, 1.0), 0.0)
    return output.flatten(2, 3)[..., :length, :], PoolState(last[..., -1, :], after[..., :1], after[..., 1:])


def _scan(sums: Tensor, decays: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Running sums before each chunk (B, H, G, 1 + K), and after the last (B, H, 1 + K)."""
    before, running = [], start
    for g in range(sums.shape[2]):
        before.append(running)
        running = torch.addcmul(sums[:, :, g], decays[:, :, g], running)
    return torch.stack(before, dim=2), running


def _future(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).triu(1)


def prefix_softmax_mean_reference(logits: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """The definition, one position at a time. The oracle of the tests: slow, obvious, exact in float64."""
    rows = []
    for i in range(values.shape[-2]):
        scores = logits[..., : i + 1]
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, : i + 1], -torch.inf)
        weights = scores.softmax(dim=-1).nan_to_num(0.0)  # a prefix of padding only: zeros
        rows.append((weights[..., None, :] @ values[..., : i + 1, :]).squeeze(-2))
    return torch.stack(rows, dim=-2)
