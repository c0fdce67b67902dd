"""Causal FAVOR+ of packed documents, where their borders are tensors that nobody may look at: in operations that compilers follow.

Axes: B batch, H heads, N length, K head width, M features, C chunk length.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.numerics import EMPTY, exact_dtype, no_autocast
from .features import softmax_exponents
from .formula import normalise


def causal_favor_by_document(
    queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor, documents: Tensor, mask: Tensor | None = None, *, chunk: int = 64
) -> Tensor:
    """Causal attention of each position to its own document's.

    Args:
        queries, keys: (B, H, N, K).
        values: (B, H, N, any width).
        projection: (M, K).
        documents: (B, N) integers, equal for neighbours of one document.
        mask: (B, N) bool, True = real token.
        chunk: C; changes speed, not the result.

    Returns:
        (B, H, N, value width) in the dtype of ``values``.

    Cost as of :func:`~subquadratic.attention.favor.op.causal_favor`, which is faster where bounds are known.
    """
    exact, given = exact_dtype(queries, values), values.dtype
    with no_autocast(values):
        log_queries, log_keys = (softmax_exponents(x.to(exact), projection)[0] for x in (queries, keys))
        queries = (log_queries - log_queries.detach().amax(dim=-1, keepdim=True)).exp()
        if mask is not None:
            log_keys = log_keys.masked_fill(~mask[:, None, :, None], -torch.inf)
        maximum = _largest_so_far(log_keys.detach().amax(dim=-1).clamp_min(EMPTY), documents)
        keys = (log_keys - maximum[..., None]).exp()
        return _chunk_by_chunk(queries, keys, values.to(exact), maximum, documents, chunk).to(given)


def _largest_so_far(numbers: Tensor, documents: Tensor) -> Tensor:
    """(B, H, N): the largest up to each position in its document, by steps that double."""
    step = 1
    while step < numbers.shape[-1]:
        before = F.pad(numbers[..., :-step], (step, 0), value=EMPTY)
        same = F.pad(documents[:, step:] == documents[:, :-step], (step, 0), value=False)[:, None]
        numbers = torch.where(same, torch.maximum(numbers, before), numbers)
        step *= 2
    return numbers


def _chunk_by_chunk(queries: Tensor, keys: Tensor, values: Tensor, maximum: Tensor, documents: Tensor, chunk: int) -> Tensor:
    batch, heads, length, features = queries.shape
    total = values.new_zeros(batch, heads, features, values.shape[-1])  # of the document that the chunk before ended in
    weight, most, open_document = values.new_zeros(batch, heads, features), maximum[..., :1], documents[:, :1]
    outputs = []
    for start in range(0, length, chunk):
        q, k, v = (tensor[:, :, start : start + chunk] for tensor in (queries, keys, values))
        m, d = maximum[..., start : start + chunk], documents[:, start : start + chunk]
        same = (d[:, :, None] == d[:, None]).tril()[:, None]
        scores = (q @ k.mT) * _fade(m[..., None, :] - m[..., :, None], same)
        carried = q * _fade(most - m, (d == open_document)[:, None])[..., None]
        numerator = scores @ v + carried @ total
        outputs.append(normalise(numerator, scores.sum(dim=-1, keepdim=True) + carried @ weight[..., None]))
        last, end = d[:, -1:], m[..., -1:]
        kept = k * _fade(m - end, (d == last)[:, None])[..., None]
        fade = _fade(most - end, (open_document == last)[:, None])
        total, weight = total * fade[..., None] + kept.mT @ v, weight * fade + kept.sum(dim=-2)
        most, open_document = end, last
    return torch.cat(outputs, dim=2)


def _fade(exponents: Tensor, where: Tensor) -> Tensor:
    return exponents.masked_fill(~where, -torch.inf).exp()
