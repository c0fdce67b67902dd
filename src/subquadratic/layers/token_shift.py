"""Token shift: some channels of each token come from its neighbour, before a layer sees it (RWKV-LM's time shift).

Axes: B batch, N length, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import NotCausalError
from ..core.padding import pack_left, zero_padding
from ..core.state import State, state
from .streaming import Carry, Streaming


@state
class ShiftState(State):
    """The channels that the next token will borrow."""

    last: Tensor  # (B, D_shifted) of the last real token; zeros before the first


class TokenShift(Streaming):
    """Causal: the second half of the channels comes from the token before. Bidirectional: one third from the token after, one third
    unchanged,
    one third from the token before (channels that do not divide stay). Neighbours are real tokens: padding in between is skipped.

    Has no parameters.
    """

    def __init__(self, dim: int, *, causal: bool):
        super().__init__()
        self.causal = causal
        self.part = dim // 2 if causal else dim // 3

    def forward(self, x: Tensor, mask: Tensor | None = None, *, carry: Carry | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D). ``carry``: of a :class:`ShiftState`."""
        x = zero_padding(x, mask)
        if carry is not None:
            return self._step(x, mask, carry)
        if self.causal:
            kept, moved, rest = self._split(x)
            return torch.cat((kept, _from_before(moved, mask), rest), dim=-1)
        after, kept, before, rest = x.split([self.part, self.part, self.part, x.shape[-1] - 3 * self.part], dim=-1)
        return torch.cat((_from_after(after, mask), kept, _from_before(before, mask), rest), dim=-1)

    def init_state(self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> ShiftState:
        """Nothing seen yet."""
        if not self.causal:
            raise NotCausalError("this token shift")
        return ShiftState(torch.zeros(batch_size, self.part, device=device, dtype=dtype))

    def extend(self, x: Tensor, state: ShiftState, *, mask: Tensor | None = None) -> tuple[Tensor, ShiftState]:
        """(B, N, D) and the state before -> (B, N, D) and the state after."""
        return self._carried(x, mask, state=state)

    def _step(self, x: Tensor, mask: Tensor | None, carry: Carry) -> Tensor:
        kept, moved, rest = self._split(x)
        line = torch.cat((carry.before.last[:, None].to(moved.dtype), moved), dim=1)
        if mask is not None:
            line_mask = torch.cat((torch.ones_like(mask[:, :1]), mask), dim=1)
            latest = _latest(line_mask)[..., None].expand_as(line)  # for each place, the last real one up to it
            line = line.gather(1, latest)
        carry.after = ShiftState(line[:, -1])
        return torch.cat((kept, line[:, :-1], rest), dim=-1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, moved, rest = x.split([self.part, self.part, x.shape[-1] - 2 * self.part], dim=-1)
        return kept, moved, rest


def _from_before(x: Tensor, mask: Tensor | None) -> Tensor:
    """Each token's channels become those of the real token before it; zeros for the first."""
    line = F.pad(x, (0, 0, 1, 0))
    if mask is None:
        return line[:, :-1]
    latest = _latest(F.pad(mask, (1, 0), value=True))[:, :-1]
    return line.gather(1, latest[..., None].expand_as(x))


def _from_after(x: Tensor, mask: Tensor | None) -> Tensor:
    return _from_before(x.flip(1), None if mask is None else mask.flip(1)).flip(1)


def _latest(mask: Tensor) -> Tensor:
    """(B, N) index of the last True up to each place; the first place must be True."""
    if torch.compiler.is_exporting():  # ONNX has no running maximum
        return pack_left(mask)[0].gather(1, mask.cumsum(dim=1) - 1)
    places = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, places, 0).cummax(dim=1).values
