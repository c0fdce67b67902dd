"""Linformer (arXiv 2006.04768) for encoders of transformers: attention to R slots, each a weighted mean of keys and values.

Without training, slots are means of equal runs of a row's real tokens (the paper's section 4, "mean pooling" among its general
projections). A module that owns a projection over positions, as `slot_projection`, is asked for its weights instead.

Axes: B batch, H heads of queries, J heads of keys, N length (queries), S length (keys), K head width, R slots.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...attention.low_rank.projection import SlotProjection
from ...core.numerics import exact_dtype, no_autocast
from ...core.padding import count_real, token_positions
from .documents import by_document
from .heads import grouped, ungrouped
from .options import LINFORMER, AttentionOptions
from .refusals import refuse
from .sight import Sight

OWN = "slot_projection"  # attribute of an attention module: positions (B, S), lengths (B,) -> E and F, (B, S, R) each


def linformer(module: nn.Module, options: AttentionOptions, queries: Tensor, keys: Tensor, values: Tensor, sight: Sight) -> Tensor:
    """softmax(q (E^T k)^T / sqrt(K)) F^T v (eq. 7).

    Args:
        module: may own the projection (``slot_projection``).
        options: slots.
        queries: (B, H, N, K), scaled for scores of q . k / sqrt(K).
        keys, values: (B, J, S, K), (B, J, S, any width).
        sight: who may see whom; without a window.

    Returns:
        (B, H, N, value width); zeros for a query of a row without keys.

    Raises:
        NotImplementedError: for causal attention, in which a slot would hold keys of later positions.

    A mean of n tokens counts n times in the softmax, as they would. Cost O((N + S) R K) a head.
    """
    if sight.causal or getattr(module, "is_causal", False):
        raise refuse(LINFORMER, module, "is causal")
    own = getattr(module, OWN, None)
    project = own if own is not None else SlotProjection(min(options.slots, keys.shape[2]), max_length=None, kind="pool", shared=True)
    if sight.documents is not None:

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            return _attend(q, k, v, project, mask, counted=own is None)

        return by_document(attend, (queries, keys, values), sight.documents, sight.real)
    return _attend(queries, keys, values, project, sight.real, counted=own is None)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, project: nn.Module, real: Tensor | None, *, counted: bool) -> Tensor:
    batch, heads, stretch = *queries.shape[:2], keys.shape[2]
    positions = token_positions(real, stretch, device=keys.device)
    rows_e, rows_f = project(positions, count_real(real, batch, stretch, keys.device))
    exact = exact_dtype(queries, values)
    rows_e, rows_f = (rows.to(exact) if real is None else (rows * real[..., None]).to(exact) for rows in (rows_e, rows_f))
    with no_autocast(values):
        slots, contents = (_mixed(rows, tensor.to(exact)) for rows, tensor in ((rows_e, keys), (rows_f, values)))
        bias = (rows_e != 0).sum(dim=-2).to(exact).log().clamp_min(-1e30).view(-1, 1, 1, slots.shape[2]) if counted else None
        output = F.scaled_dot_product_attention(grouped(queries, keys.shape[1]).to(exact), slots, contents, attn_mask=bias)
        return ungrouped(output, heads).to(values.dtype)


def _mixed(rows: Tensor, tensor: Tensor) -> Tensor:
    """(S, R) or (B, S, R) and (B, J, S, K) to (B, J, R, K)."""
    return torch.einsum("bsr,bjsk->bjrk", rows.expand(tensor.shape[0], -1, -1), tensor)
