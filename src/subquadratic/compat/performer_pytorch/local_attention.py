"""The local heads: exact attention to a window, with the published rotation.

Heads are rotated relative to their window, and in the bidirectional form the published queries stand one window too far: a query at i meets
a key at j as if they were i - j + W apart. Old weights have learned that, so it stays.

Axes: B batch, H heads, N length, K head width, W window.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...attention.softmax.window import WindowState, empty_window, extend_window_attention, window_attention
from ...core.numerics import has_float64
from ...core.padding import token_positions
from ...core.scalars import plain_scalars
from ...layers.rotary.op import apply_rotary, rotary_angles


class SinusoidalEmbeddings(nn.Module):
    """The angles of K / 2 channel pairs. Holds no tensors: the frequencies follow from K."""

    @plain_scalars
    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, positions: Tensor) -> Tensor:
        """(N,) or (B, N) -> (..., N, K / 2), in float64 where there is one: positions count from the start, but only their small
        differences matter."""
        rates = rotary_angles(torch.ones_like(positions[..., :1]), self.dim, dtype=torch.float32)  # as published
        return positions[..., None].to(torch.float64 if has_float64(positions.device) else torch.float32) * rates


class LocalAttention(nn.Module):
    """Softmax attention to the own window and the one before; bidirectional also to the one after.

    Args:
        window_size: W.
        causal: position i sees tokens up to i.
        dropout: of the weights.
        dim: K.
    """

    @plain_scalars
    def __init__(self, window_size: int, causal: bool = False, *, dropout: float = 0.0, dim: int):
        super().__init__()
        self.window_size, self.causal = window_size, causal
        self.dropout = nn.Dropout(dropout)
        self.rel_pos = SinusoidalEmbeddings(dim)
        self.register_load_state_dict_pre_hook(_forget_frequencies)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, input_mask: Tensor | None = None) -> Tensor:
        """(B, H, N, K) each -> (B, H, N, K); mask (B, N) bool, True = real token, under either name."""
        mask = input_mask if mask is None else mask
        window, length = self.window_size, q.shape[-2]
        positions = token_positions(mask, length, device=q.device)
        k = apply_rotary(k, self.rel_pos(positions))
        q = apply_rotary(q, self.rel_pos(positions if self.causal else positions + window))
        if not self.causal and mask is None:
            # As published: without a mask, the zeros that fill up the last block are keys too.
            q, k, v = (F.pad(tensor, (0, 0, 0, -length % window)) for tensor in (q, k, v))
        return window_attention(q, k, v, window=window, causal=self.causal, mask=mask, dropout=self._drop())[..., :length, :]

    def init_window(self, batch_size: int, heads: int, *, device: torch.device, dtype: torch.dtype) -> WindowState:
        """Nothing seen yet."""
        return empty_window(batch_size, heads, self.window_size, self.rel_pos.dim, device=device, dtype=dtype)

    def extend(self, q: Tensor, k: Tensor, v: Tensor, state: WindowState, *, mask: Tensor | None = None) -> tuple[Tensor, WindowState]:
        """The next N positions, all (B, H, N, K), and the window after them."""
        angles = self.rel_pos(token_positions(mask, q.shape[-2], state.seen))
        return extend_window_attention(apply_rotary(q, angles), apply_rotary(k, angles), v, state, mask=mask, dropout=self._drop())

    def _drop(self) -> float:
        return self.dropout.p if self.dropout.training else 0.0


def _forget_frequencies(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """The published module keeps its frequencies in the checkpoint."""
    state_dict.pop(prefix + "rel_pos.inv_freq", None)
