"""Running softmax means by PyTorch's operators alone: what compilers and every kind of derivative take.

Axes: B batch, H heads, N length, K head width, G chunks, C chunk length.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.chunking import chunk_of, cut, missing, repeat_last
from ...core.numerics import running_maximum
from ...core.packed import document_chunks
from .state import PoolState

LEAST_CHUNK = 64  # positions of a chunk: the whole sequence is one block, and there are (N / C)^2 pairs of chunks


def running_mean_by_formula(
    logits: Tensor, values: Tensor, mask: Tensor | None, state: PoolState, bounds: list[int] | None, *, chunk: int = LEAST_CHUNK
) -> tuple[Tensor, PoolState]:
    """Softmax-weighted running mean.

    Args:
        logits: (B, H, N).
        values: (B, H, N, K).
        mask: (B, N) bool, True = real token.
        state: what came before, in the dtype of the arithmetic; a row for each document.
        bounds: borders of packed documents, or None.
        chunk: C, at least.

    Returns:
        (B, H, N, K) in the dtype of ``values``, and the summary after the last token.
    """
    given, exact = values.dtype, state.total.dtype
    logits, values = blank(logits.to(exact), values.to(exact), mask)
    if bounds is None:
        output, state = _in_one_block(logits, values, state, chunk_of(max(chunk, LEAST_CHUNK), logits.shape[-1]))
        return output.to(given), state
    outputs, states = [], [state.select([row]) for row in range(len(bounds) - 1)]
    for part in document_chunks(bounds, bounds[-1], bounds[-1]):
        here = slice(part.start, part.stop)
        size = min(max(chunk, LEAST_CHUNK), part.stop - part.start)
        output, states[part.rows.start] = _in_one_block(logits[..., here], values[..., here, :], states[part.rows.start], size)
        outputs.append(output)
    after = (torch.cat(rows) for rows in zip(*(row.tensors() for row in states), strict=True))
    return torch.cat(outputs, dim=-2).to(given), PoolState(*after)


def blank(logits: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Padded tokens as tokens that weigh nothing, whatever they held."""
    if mask is None:
        return logits, values
    return logits.masked_fill(~mask[:, None], -torch.inf), values.masked_fill(~mask[:, None, :, None], 0.0)


def _in_one_block(logits: Tensor, values: Tensor, state: PoolState, chunk: int) -> tuple[Tensor, PoolState]:
    """Everything at once, in operations that autograd and compilers follow. Memory O(N (C + K) + (N / C)^2)."""
    length = logits.shape[-1]
    maximum = torch.maximum(running_maximum(logits.detach()), state.maximum)  # (B, H, N), non-decreasing, EMPTY at least
    padding = missing(length, chunk)
    logits = cut(F.pad(logits, (0, padding), value=-torch.inf), chunk, dim=-1)  # (B, H, G, C)
    values = cut(F.pad(values, (0, 0, 0, padding)), chunk)  # (B, H, G, C, K)
    maximum = cut(repeat_last(maximum, padding), chunk, dim=-1)

    borders = torch.cat((state.maximum, maximum[..., -1]), dim=-1)  # (B, H, 1 + G): before each chunk, and after the last
    last, arriving = borders[..., 1:, None], borders[..., :-1, None]
    summary = (logits - last).exp()  # (B, H, G, C): each token's weight at the end of its chunk
    sums = torch.cat((summary.sum(dim=-1, keepdim=True), (summary[..., None, :] @ values).squeeze(-2)), dim=-1)  # (B, H, G, 1 + K)
    sums = torch.cat((torch.cat((state.weight, state.total), dim=-1)[..., None, :], sums), dim=-2)
    running = _exp_of_past(borders[..., None, :] - borders[..., :, None]) @ sums  # (B, H, 1 + G, 1 + K), relative to the borders
    before, after = running[..., :-1, :], running[..., -1, :]

    weights = _exp_of_past(logits[..., None, :] - maximum[..., :, None])  # (B, H, G, C, C)
    carried = (arriving - maximum).exp()[..., None]  # the past, rescaled to the new maximum
    weight = weights.sum(dim=-1, keepdim=True) + carried * before[..., None, :1]
    total = weights @ values + carried * before[..., None, 1:]
    some = ~(weight <= 0)  # NaN stays
    output = torch.where(some, total / torch.where(some, weight, 1.0), 0.0)
    return output.flatten(2, 3)[..., :length, :], PoolState(borders[..., -1:], after[..., :1], after[..., 1:])


def _exp_of_past(exponents: Tensor) -> Tensor:
    """exp, and exactly zero above the diagonal, whatever is there."""
    future = torch.ones(exponents.shape[-2:], dtype=torch.bool, device=exponents.device).triu(1)
    return exponents.masked_fill(future, -torch.inf).exp()


def running_softmax_mean_reference(logits: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """The definition, one position at a time. The oracle of the tests: slow, obvious, exact in float64."""
    rows = []
    for i in range(values.shape[-2]):
        scores = logits[..., : i + 1]
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, : i + 1], -torch.inf)
        weights = scores.softmax(dim=-1).nan_to_num(0.0)  # a prefix of padding only: zeros
        rows.append((weights[..., None, :] @ values[..., : i + 1, :]).squeeze(-2))
    return torch.stack(rows, dim=-2)
