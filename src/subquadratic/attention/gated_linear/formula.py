"""The definition of gated linear attention, one position at a time (GLA, arXiv 2312.06635, eq. 3).

With a decay a_t in (0, 1]^K for each position, the summary of the past is a matrix that forgets, and a query reads it:

    S_t = diag(a_t) S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t / sqrt(K)

Unrolled, o_t is the sum over j <= t of v_j times (q_t * k_j * a_{j+1} ... a_t) summed over K: linear attention whose weights fade. A decay
of one number for all channels, the same at every position, is RetNet's retention (arXiv 2307.08621, eq. 6).

Axes: B batch, H heads, N length, K width of queries and keys, V width of values.
"""

import torch
from torch import Tensor


def gated_linear_reference(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor, mask: Tensor | None = None, total: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The oracle of the tests: slow, obvious, exact in float64.

    Args:
        queries, keys: (B, H, N, K).
        values: (B, H, N, V).
        log_decay: (B, H, N, K), or (B, H, N, 1) for one decay of all channels: log a.
        mask: (B, N) bool, True = real token: padding is not summed, and nothing fades over it.
        total: (B, H, K, V), the summary before; None: nothing came before.

    Returns:
        (B, H, N, V), and the summary after the last position.
    """
    scale = queries.shape[-1] ** -0.5
    if total is None:
        total = values.new_zeros(*keys.shape[:2], keys.shape[-1], values.shape[-1])
    rows = []
    for t in range(keys.shape[2]):
        after = log_decay[:, :, t, :, None].exp() * total + keys[:, :, t, :, None] * values[:, :, t, None, :]
        total = after if mask is None else torch.where(mask[:, t, None, None, None], after, total)
        rows.append((queries[:, :, t, None, :] @ total)[:, :, 0] * scale)
    return torch.stack(rows, dim=2), total
