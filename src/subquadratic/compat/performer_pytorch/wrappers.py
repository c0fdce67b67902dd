"""What the published Performer puts around its attention and feed-forward layers, under its names.

A causal stack also streams: a :class:`~subquadratic.layers.streaming.Carry` per branch travels with the arguments down to the modules that
remember something, so that a token goes through the same modules, adapters and hooks as a whole sequence does.

Axes: B batch, N length, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import require, require_positive
from ...core.numerics import exact_dtype
from ...core.vector_length import vector_length
from ...layers.residual import BranchState, StackState
from ...layers.streaming import Carry
from ...layers.token_shift import TokenShift
from ..sequences import ReversibleSequence, Routed, SequentialSequence

CONTEXT = ("context", "context_mask")  # read once, when the state is made


class PreScaleNorm(nn.Module):
    """x / |x| times one learned gain ``g``, before ``fn``."""

    def __init__(self, dim: int, fn: nn.Module, eps: float = 1e-5):
        super().__init__()
        self.fn = fn
        self.g = nn.Parameter(torch.ones(1))
        self.eps = eps

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, N, D) -> (B, N, D); the norm is taken in float32."""
        exact = x.to(exact_dtype(x))
        return self.fn((exact / vector_length(exact, least=self.eps) * self.g).to(x.dtype), **arguments)


class ReZero(nn.Module):
    """``fn`` times one learned gain ``g`` that starts near zero."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.g = nn.Parameter(torch.tensor(1e-3))
        self.fn = fn

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        y = self.fn(x, **arguments)
        return y * self.g.to(y.dtype)


class PreShiftTokens(nn.Module):
    """Some channels come from neighbouring tokens, before ``fn``.

    Args:
        shifts: (0, 1), the second half from the token before; or (-1, 0, 1), a third from either side.
        fn: the layer.

    Raises:
        ValueError: for other shifts.
    """

    def __init__(self, shifts: Sequence[int], fn: nn.Module):
        super().__init__()
        require(tuple(shifts) in ((0, 1), (-1, 0, 1)), f"shifts must be (0, 1) or (-1, 0, 1), got {tuple(shifts)!r}")
        self.fn = fn
        self.shifts = tuple(shifts)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        mask, carry, shift = arguments.pop("shift_mask", arguments.get("mask")), arguments.pop("carry", None), self.shift(x.shape[-1])
        if carry is None:
            return self.fn(shift(x, mask), **arguments)
        before: Any = carry.before
        x, after = shift.extend(x, before.shift, mask=mask)
        if before.layer is None:  # the layer below remembers nothing
            carry.after = BranchState(after, None)
            return self.fn(x, **arguments)
        below = Carry(before.layer)
        y: Tensor = self.fn(x, carry=below, **arguments)
        carry.after = BranchState(after, below.after)
        return y

    def shift(self, dim: int) -> TokenShift:
        """What moves the channels of (B, N, D); it has no tensors, so it is no part of the model."""
        return TokenShift(dim, causal=self.shifts == (0, 1))


class Chunk(nn.Module):
    """``fn`` over pieces of the sequence, for less memory at the same result."""

    def __init__(self, chunks: int, fn: nn.Module, along_dim: int = -1):
        super().__init__()
        require_positive(ff_chunks=chunks)
        self.dim = along_dim
        self.chunks = chunks
        self.fn = fn

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        if self.chunks == 1:
            return self.fn(x, **arguments)
        return torch.cat([self.fn(piece, **arguments) for piece in x.chunk(self.chunks, dim=self.dim)], dim=self.dim)


def start(
    net: SequentialSequence | ReversibleSequence, dim: int, batch_size: int, *, device: torch.device, dtype: torch.dtype, **context: Any
) -> StackState:
    """The state of every branch before the first token; a context is read here, once and for all."""
    found = []
    for index, branch in enumerate(net.branches()):
        shift = layer = None
        for module in branch.module.modules():
            if isinstance(module, PreShiftTokens):
                shift = module.shift(dim).init_state(batch_size, device=device, dtype=dtype)
            elif hasattr(module, "init_state"):
                given = {name: context[name] for name in CONTEXT if name in branch.reads and name in context}
                layer = module.init_state(batch_size, device=device, dtype=dtype, **given)  # type: ignore[operator]
                break
        if index % 2 == 0 and layer is None:
            raise ValueError(f"layer {index // 2} of the Performer has no attention layer that can stream, only {branch.module}")
        found.append(BranchState(shift, layer))
    return StackState(tuple(found))


def go_on(net: SequentialSequence | ReversibleSequence, x: Tensor, state: StackState, **arguments: Any) -> tuple[Tensor, StackState]:
    """The next piece (B, N, D) -> (B, N, D), and the state of every branch after it."""
    states, streams = [], [x, x]  # the same tensor twice when there is only one stream
    for index, (branch, before) in enumerate(zip(net.branches(), state.branches, strict=True)):
        source = streams[(index + 1) % 2] if net.reversible else streams[0]
        delta, after = _one(branch, source, before, arguments)
        states.append(after)
        target = index % 2 if net.reversible else 0
        streams[target] = streams[target] + delta
    return (streams[0] + streams[1] if net.reversible else streams[0]), StackState(tuple(states))


def _one(branch: Routed, x: Tensor, before: BranchState, arguments: dict[str, Any]) -> tuple[Tensor, BranchState]:
    given = {name: value for name, value in branch.select(arguments).items() if name not in CONTEXT}
    if before.shift is None and before.layer is None:
        return branch.module(x, **given), before
    carry = Carry(before.layer if before.shift is None else before)
    delta = branch.module(x, **given, carry=carry)
    return delta, BranchState(None, carry.after) if before.shift is None else carry.after
