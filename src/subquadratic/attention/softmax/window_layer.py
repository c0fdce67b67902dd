"""Exact attention within a window, as a layer of its own (the local heads of the Performer use the same operation).

Axes: B batch, N length, D width, H heads, K head width, W window.
"""

from ...core.errors import require_positive
from ...core.scalars import plain_scalars
from .layer import SoftmaxAttention


class WindowAttention(SoftmaxAttention):
    """Multi-head softmax attention within W tokens, at cost O(N W K) a head; forward, masks and streaming as in :class:`SoftmaxAttention`.

    Args:
        dim: D.
        window: W.
        blocks: the sequence is cut into blocks of W, and a position sees its own block and the one before (also the one after, when
            bidirectional). False: a window that moves with the position: the last W tokens, itself included (W - 1 to each side).
        heads, head_dim, causal, rotary, dropout, qkv_bias, out_bias, qk_norm: as in :class:`SoftmaxAttention`.

    Raises:
        ValueError: for values out of range or an odd head width with ``rotary``.
    """

    @plain_scalars
    def __init__(
        self,
        dim: int,
        *,
        window: int,
        blocks: bool = False,
        heads: int = 8,
        head_dim: int | None = None,
        causal: bool = False,
        rotary: bool = False,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        out_bias: bool = True,
        qk_norm: bool = False,
    ):
        require_positive(window=window)
        super().__init__(
            dim, heads=heads, head_dim=head_dim, causal=causal, window=window, rotary=rotary, dropout=dropout, qkv_bias=qkv_bias,
            out_bias=out_bias, qk_norm=qk_norm,
        )  # fmt: skip
        self.sliding = not blocks
