"""Causal FAVOR+ on a GPU: features by PyTorch, the recurrence by a Triton kernel.

Axes: B batch, H heads, N length, K head width, M features.
"""

import torch
from torch import Tensor

from ...core.numerics import EMPTY
from .features import softmax_exponents
from .formula import FeatureState

APART = 1e6  # between the exponents of packed documents, in float64: no exponent comes near it, and 1e-10 of it is still told apart


def favor_by_kernel(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    projection: Tensor | None,
    state: FeatureState,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``CausalFavor.apply``: the output (B, H, N, K), and total, weight and maximum after the last position.

    Exponents and stabilisers are float32; features then take the dtype of ``values``, for the matrix units, but float32 instead of float16,
    which cannot hold the gradient of a key far below the maximum.
    """
    from .triton import gated_linear_attention

    given, values = values.dtype, values.float() if values.dtype is torch.float16 else values
    if projection is None:
        features_q, features_k = queries, keys if mask is None else keys.masked_fill(~mask[:, None, :, None], 0.0)
        running, start = torch.zeros_like(queries[..., 0], dtype=torch.float32), state.maximum
    else:
        log_q, log_k = (softmax_exponents(x.float(), projection)[0] for x in (queries, keys))
        features_q = (log_q - log_q.detach().amax(dim=-1, keepdim=True)).exp()
        if mask is not None:
            log_k = log_k.masked_fill(~mask[:, None, :, None], -torch.inf)
        start = state.maximum
        running = running_maximum(log_k.detach().amax(dim=-1).clamp_min(EMPTY), start, cu_seqlens)
        features_k = (log_k - running[..., None]).exp()
    output, total, weight = gated_linear_attention(
        features_q.to(values.dtype), features_k.to(values.dtype), values, running, state.total, state.weight, start, cu_seqlens=cu_seqlens
    )
    return output.to(given), total, weight, last_of_each(running, start, cu_seqlens)


def running_maximum(values: Tensor, start: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Largest of ``start`` (P, H, 1) and the values (B, H, N) up to each position, in its own document; without waiting for the device."""
    if cu_seqlens is None:
        return torch.maximum(values.cummax(dim=-1).values, start)
    document = documents_at(cu_seqlens, values.shape[-1])
    lifted = values.clamp_min(-APART / 4).double() + document * APART
    running = (lifted.cummax(dim=-1).values - document * APART).to(values.dtype)
    return torch.maximum(running, start[document, :, 0].T[None])


def last_of_each(running: Tensor, start: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """The running maximum (P, H, 1) after the last position of each document; what it was before an empty one."""
    if cu_seqlens is None:
        return running[..., -1:]
    last = running[0].T[(cu_seqlens[1:] - 1).clamp_min(0)][..., None]  # (P, H, 1)
    return torch.where((cu_seqlens.diff() > 0)[:, None, None], last, start)


def documents_at(cu_seqlens: Tensor, length: int) -> Tensor:
    """(N,) int64: the document of each position."""
    return torch.searchsorted(cu_seqlens[1:].contiguous(), torch.arange(length, device=cu_seqlens.device), right=True)
