"""Token shift: some channels of each token come from its neighbours, before a layer sees it (RWKV-LM's time shift).

Axes: B batch, N length, D width, S tokens that are borrowed from.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import NotCausalError, require_positive
from ..core.padding import last_places, pack_left, zero_padding
from ..core.state import State, state
from .streaming import Carry, Streaming


@state
class ShiftState(State):
    """The channels that the next tokens will borrow."""

    last: Tensor  # (B, S, D_shifted) of the last real tokens, the latest at the end; zeros before the first


class TokenShift(Streaming):
    """Causal: the second half of the channels comes from the tokens before. Bidirectional: one third from those after, one third unchanged,
    one third from those before (channels that do not divide stay). Neighbours are real tokens: padding in between is skipped.

    Has no parameters.

    Args:
        dim: D.
        causal: borrow from tokens before only.
        tokens: S. Each token nearer by one lends twice the channels, and the two farthest lend alike: with 1 all are the next
            neighbour's, with 3 half of them, a quarter the second's and a quarter the third's.

    Raises:
        ValueError: if ``tokens`` is not positive.
    """

    def __init__(self, dim: int, *, causal: bool, tokens: int = 1):
        super().__init__()
        require_positive(tokens=tokens)
        self.causal = causal
        self.part = dim // 2 if causal else dim // 3
        self.shares = _halved(self.part, tokens)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, carry: Carry | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D). ``carry``: of a :class:`ShiftState`."""
        x = zero_padding(x, mask)
        if carry is not None:
            return self._step(x, mask, carry)
        if self.causal:
            kept, moved, rest = self._split(x)
            return torch.cat((kept, *_from_before(moved, mask, self.shares), rest), dim=-1)
        after, kept, before, rest = x.split([self.part, self.part, self.part, x.shape[-1] - 3 * self.part], dim=-1)
        return torch.cat((*_from_after(after, mask, self.shares), kept, *_from_before(before, mask, self.shares), rest), dim=-1)

    def init_state(self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> ShiftState:
        """Nothing seen yet."""
        if not self.causal:
            raise NotCausalError("this token shift")
        return ShiftState(torch.zeros(batch_size, len(self.shares), self.part, device=device, dtype=dtype))

    def extend(self, x: Tensor, state: ShiftState, *, mask: Tensor | None = None) -> tuple[Tensor, ShiftState]:
        """(B, N, D) and the state before -> (B, N, D) and the state after."""
        return self._carried(x, mask, state=state)

    def _step(self, x: Tensor, mask: Tensor | None, carry: Carry) -> Tensor:
        kept, moved, rest = self._split(x)
        tokens = len(self.shares)
        line = torch.cat((carry.before.last.to(moved.dtype), moved), dim=1)
        line_mask = None if mask is None else F.pad(mask, (tokens, 0), value=True)
        borrowed = [piece[:, tokens:] for piece in _from_before(line, line_mask, self.shares)]
        if mask is None:
            carry.after = ShiftState(line[:, -tokens:])
        else:
            places = last_places(mask, tokens)
            carry.after = ShiftState(line.gather(1, places[..., None].expand(-1, -1, line.shape[-1])))
        return torch.cat((kept, *borrowed, rest), dim=-1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, moved, rest = x.split([self.part, self.part, x.shape[-1] - 2 * self.part], dim=-1)
        return kept, moved, rest


def _halved(part: int, tokens: int) -> list[int]:
    """How many of ``part`` channels come from each of so many tokens, the nearest first."""
    shares = []
    for _ in range(tokens - 1):
        shares.append(part - part // 2)
        part //= 2
    return [*shares, part]


def _from_before(x: Tensor, mask: Tensor | None, shares: list[int]) -> list[Tensor]:
    """Channels of each token become those of the real tokens before it, so many of each; zeros where there are none."""
    pieces = []
    for away, share in enumerate(shares, 1):
        if mask is None:
            piece, x = x.split([share, x.shape[-1] - share], dim=-1)
            pieces.append(F.pad(piece, (0, 0, away, 0))[:, : x.shape[1]])
        else:
            piece, x = _next_before(x, mask).split([share, x.shape[-1] - share], dim=-1)
            pieces.append(piece)
    return pieces


def _next_before(x: Tensor, mask: Tensor) -> Tensor:
    """Each token's channels become those of the real token before it; zeros for the first."""
    latest = _latest(F.pad(mask, (1, 0), value=True))[:, :-1]
    return F.pad(x, (0, 0, 1, 0)).gather(1, latest[..., None].expand_as(x))


def _from_after(x: Tensor, mask: Tensor | None, shares: list[int]) -> list[Tensor]:
    return [piece.flip(1) for piece in _from_before(x.flip(1), None if mask is None else mask.flip(1), shares)]


def _latest(mask: Tensor) -> Tensor:
    """(B, N) index of the last True up to each place; the first place must be True."""
    if torch.compiler.is_exporting():  # ONNX has no running maximum
        return pack_left(mask)[0].gather(1, mask.cumsum(dim=1) - 1)
    places = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, places, 0).cummax(dim=1).values
