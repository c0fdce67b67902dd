"""Efficient attention (arXiv 1812.01243): softmax over features for queries, over positions for keys, and its causal form.

Bidirectional: o_i = sum_f softmax_f(q_i)_f sum_j softmax_j(k_{.f})_j v_j. Causal: the softmax over positions runs up to i, with a running
    maximum per feature.

Axes: B batch, H heads, N length, S length (keys), K head width (features are the head's channels), G chunks, C chunk length.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.causality import keep_out
from ...core.chunking import chunk_of, missing, repeat_last, running_totals
from ...core.numerics import EMPTY, exact_dtype, no_autocast, running_maximum
from ...core.packed import document_bounds, document_chunks, state_rows
from ...core.state import State, state
from ...core.tracing import is_open
from .formula import zero_keys


@state
class EfficientState(State):
    """Summary of the keys and values seen so far; float32 (float64 for float64 inputs)."""

    total: Tensor  # (B, H, K, K)   sum of exp(k - maximum) v^T
    weight: Tensor  # (B, H, K)     sum of exp(k - maximum)
    maximum: Tensor  # (B, H, K)    running maximum per feature


def empty_efficient(
    batch: int, heads: int, features: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> EfficientState:
    """The summary of no tokens."""
    zeros = torch.zeros(batch, heads, features, width + 1, device=device, dtype=dtype)
    return EfficientState(zeros[..., 1:].clone(), zeros[..., 0].clone(), torch.full_like(zeros[..., 0], EMPTY))


def summarise_efficient(keys: Tensor, values: Tensor, mask: Tensor | None = None) -> EfficientState:
    """Keys and values (B, H, S, K) as one summary."""
    if mask is not None:
        keys = keys.masked_fill(~mask[:, None, :, None], -torch.inf)
    maximum = keys.detach().amax(dim=-2).clamp_min(EMPTY)
    weights = (keys - maximum[..., None, :]).exp()
    return EfficientState(weights.transpose(-1, -2) @ zero_keys(values, mask), weights.sum(dim=-2), maximum)


def read_efficient(queries: Tensor, summary: EfficientState) -> Tensor:
    """(B, H, N, K) queries -> (B, H, N, K); zeros where there is no key."""
    weight = summary.weight[..., None]
    some = ~(weight <= 0)  # NaN stays
    columns = torch.where(some, summary.total / torch.where(some, weight, 1.0), 0.0)
    return queries.softmax(dim=-1) @ columns


def causal_efficient_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    state: EfficientState | None = None,
    *,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    chunk: int = 16,
) -> tuple[Tensor, EfficientState]:
    """The causal form, for the next N positions.

    Args:
        queries, keys, values: (B, H, N, K).
        state: what came before; None at the start of a sequence.
        mask: (B, N) bool, True = real token.
        cu_seqlens: (documents + 1,) bounds of documents packed into one row (B = 1); the state then has one row per document.
        chunk: C. Memory is O(N C K), since each feature has a softmax of its own.

    Returns:
        (B, H, N, K) in the dtype of ``values``, and the summary after the last token.

    Raises:
        ValueError: if ``cu_seqlens`` is wrong.
        NotImplementedError: for ``cu_seqlens`` while compiling.
    """
    batch, heads, length, width = queries.shape
    bounds = document_bounds(cu_seqlens, batch, length, state_rows=None if state is None else state.weight.shape[0])
    exact, given = exact_dtype(queries, values), values.dtype
    queries, keys, values = (tensor.to(exact) for tensor in (queries, keys, zero_keys(values, mask)))
    if mask is not None:
        keys = keys.masked_fill(~mask[:, None, :, None], -torch.inf)
    if state is None:
        state = empty_efficient(state_rows(bounds, batch), heads, width, values.shape[-1], device=values.device, dtype=exact)
    with no_autocast(values):
        queries = queries.softmax(dim=-1)
        before = state

        def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, EfficientState]:
            if bounds is None:
                return _causal(q, k, v, before, chunk_of(chunk, length))
            return _each_document(q, k, v, before, bounds, chunk)

        output, state = attend(queries, keys, values)
        output = keep_out(lambda *inputs: attend(*inputs)[0], (queries, keys, values), output, mask)
    return output.to(given), state


def _each_document(
    queries: Tensor, keys: Tensor, values: Tensor, state: EfficientState, bounds: list[int], chunk: int
) -> tuple[Tensor, EfficientState]:
    """:func:`_causal` of each document by itself."""
    outputs, states = [], [state.select([row]) for row in range(len(bounds) - 1)]
    for part in document_chunks(bounds, bounds[-1], bounds[-1]):
        here, row = slice(part.start, part.stop), part.rows.start
        output, states[row] = _causal(
            queries[..., here, :], keys[..., here, :], values[..., here, :], states[row], min(chunk, part.stop - part.start)
        )
        outputs.append(output)
    total, weight, maximum = (torch.cat(rows) for rows in zip(*(row.tensors() for row in states), strict=True))
    return torch.cat(outputs, dim=-2), EfficientState(total, weight, maximum)


def _causal(queries: Tensor, keys: Tensor, values: Tensor, state: EfficientState, chunk: int) -> tuple[Tensor, EfficientState]:
    length = queries.shape[-2]
    maximum = torch.maximum(running_maximum(keys.detach(), dim=-2), state.maximum[..., None, :])  # (B, H, N, K)
    padding = missing(length, chunk)
    queries, values = (F.pad(tensor, (0, 0, 0, padding)).unflatten(2, (-1, chunk)) for tensor in (queries, values))  # (B, H, G, C, K)
    keys = F.pad(keys, (0, 0, 0, padding), value=-torch.inf).unflatten(2, (-1, chunk))
    maximum = repeat_last(maximum.mT, padding).mT
    maximum = maximum.unflatten(2, (-1, chunk))

    last = maximum[..., -1, :]  # (B, H, G, K)
    arriving = torch.cat((state.maximum[:, :, None], last[:, :, :-1]), dim=2)
    folded = (keys - last[..., None, :]).exp()
    sums = torch.cat((folded.sum(dim=-2)[..., None], folded.transpose(-1, -2) @ values), dim=-1)  # (B, H, G, K, 1 + K)
    running = torch.cat((state.weight[..., None], state.total), dim=-1)
    if is_open(sums.shape[2]):
        past, running = running_totals(sums, (arriving - last).exp()[..., None], running)
    else:
        before = []
        for g in range(sums.shape[2]):
            before.append(running)
            running = torch.addcmul(sums[:, :, g], (arriving - last)[:, :, g, :, None].exp(), running)
        past = torch.stack(before, dim=2)

    exponents = keys[..., None, :, :] - maximum[..., :, None, :]  # (B, H, G, C query, C key, K)
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=keys.device).triu(1)[..., None]
    weights = exponents.masked_fill(future, -torch.inf).exp()
    carried = (arriving[..., None, :] - maximum).exp()  # (B, H, G, C, K)
    normaliser = weights.sum(dim=-2) + carried * past[..., None, :, 0]
    some = ~(normaliser <= 0)  # NaN stays
    share = torch.where(some, queries / torch.where(some, normaliser, 1.0), 0.0)
    scores = (share[..., None, :] * weights).sum(dim=-1)  # (B, H, G, C, C)
    output = scores @ values + (share * carried) @ past[..., 1:]
    return output.flatten(2, 3)[..., :length, :], EfficientState(running[..., 1:], running[..., 0], last[:, :, -1])


def efficient_attention_reference(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool, mask: Tensor | None = None) -> Tensor:
    """The definition, one position at a time. The oracle of the tests."""
    if mask is not None:
        keys = keys.masked_fill(~mask[:, None, :, None], -torch.inf)
    rows = []
    for i in range(queries.shape[-2]):
        stop = i + 1 if causal else keys.shape[-2]
        columns = keys[..., :stop, :].softmax(dim=-2).nan_to_num(0.0)
        rows.append(queries[..., i : i + 1, :].softmax(dim=-1) @ (columns.transpose(-1, -2) @ values[..., :stop, :]))
    return torch.cat(rows, dim=-2)
