"""An output for every position from a backbone that gives its last ones only, a Perceiver AR.

transformers reads an output at every position. Two rules give one that depends on the tokens up to it alone, and so neither on what follows
(right padding without a mask, as lm-eval has it) nor on how a stream was cut:

- the *stream's*, in eval mode: the output at t is what decoding token by token gives there, :meth:`PerceiverAR.extend`'s l(t) latents;
- *blocks*, in training, and where labels are given: positions are cut into blocks of ``latents``, and each block's are its latents, reading
  all that came before. Every position is predicted once, with as many latents before it as in the paper's training.

Up to ``latents`` tokens the two are the same, and all positions are latents.

Axes: B batch, N length, D width, W latents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.padding import pack, pack_left, unpack
from ..layers.streaming import advance


def blocks(backbone: Any, x: Tensor, mask: Tensor | None, latents: int) -> Tensor:
    """(B, N, D) -> (B, N, D), zero at padded positions."""
    order, real = (None, None) if mask is None else pack_left(mask)
    x = x if order is None else pack(x, order)
    counts = [x.shape[1]] * x.shape[0] if real is None else real.sum(dim=1).tolist()
    out = torch.zeros_like(x)
    for start in range(0, max(counts), latents):
        stops = [min(count, start + latents) for count in counts]
        for stop in sorted({stop for stop in stops if stop > start}):  # one, but for rows that end in this block
            rows = [row for row, own in enumerate(stops) if own == stop]
            whole = len(rows) == len(stops)
            y = backbone(x[:, :stop] if whole else x[rows, :stop], mask=None, latents=stop - start)
            places = torch.arange(start, stop, device=x.device)
            out = out.index_put((torch.tensor(rows, device=x.device)[:, None], places), y.to(out.dtype))
    return out if order is None else unpack(out, order)


def stream(backbone: Any, x: Tensor, mask: Tensor | None, state: Any, *, keep: int) -> tuple[Tensor, Any]:
    """The next tokens (B, N, D) of a stream -> (B, N, D) outputs and the state after.

    Args:
        keep: outputs of the last ``keep`` slots are wanted, and each row's last real one; the others may be zero.
    """
    length, config = x.shape[1], backbone.config
    order, real = (None, None) if mask is None else pack_left(mask)
    x = x if order is None else pack(x, order)
    wanted = length - keep
    if mask is not None and real is not None:  # the first token that is wanted, in the row that has it earliest
        earlier = mask[:, : length - keep].sum(dim=1)
        wanted = int(torch.minimum(earlier, (real.sum(dim=1) - 1).clamp_min(0)).min())
    exact, seen = isinstance(config.refill, str), int(state.seen.max())
    out = torch.zeros_like(x)
    start = 0
    while start < length:
        if start < wanted:
            size = wanted + 1 - start  # the last output of a piece is right, whatever its length
        elif exact:
            size = max(1, config.latents - seen - start)
        else:
            size = config.latents
        piece = slice(start, min(start + size, length))
        here = None if real is None else real[:, piece]
        y, state = advance(backbone, x[:, piece], state=state, mask=here)
        out = _place(out, y, here, piece)
        start = piece.stop
    return (out if order is None else unpack(out, order)), state


def _place(out: Tensor, y: Tensor, real: Tensor | None, piece: slice) -> Tensor:
    """A piece's outputs (B, W, D), aligned right, at the slots of its tokens, which are packed to the left."""
    size, width = piece.stop - piece.start, y.shape[1]
    slots = torch.arange(size, device=y.device)
    count = torch.full((y.shape[0], 1), size, device=y.device) if real is None else real.sum(dim=1, keepdim=True)
    places = width - count + slots  # (B, size): where a token's output stands in y
    there = (slots < count) & (places >= 0)
    taken = y.gather(1, places.clamp(0, width - 1)[..., None].expand(-1, -1, y.shape[-1]))
    taken = torch.where(there[..., None], taken, torch.zeros_like(taken)).to(out.dtype)
    return torch.cat((out[:, : piece.start], taken, out[:, piece.stop :]), dim=1)
