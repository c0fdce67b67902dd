"""The residual stack that the models share: norm, token shift, layer, add; plain, checkpointed or reversible, with the same parameter
names.

Axes: B batch, N length, D width.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.backend import is_transformed
from ..core.errors import require
from ..core.recomputation import hold, recomputed
from ..core.state import State, state
from .norms.layer import Gain, make_norm, sum_and_norm
from .reversible import run_reversible
from .streaming import Carry, Streaming, advance, part_with
from .token_shift import ShiftState, TokenShift
from .untouched import is_untouched

Arguments = dict[str, Any]  # what a forward call shares among all branches: mask, context, ... by the name of the layers' own arguments
CONTEXT = ("context", "context_mask")  # read once, when a streaming state is made


@state
class BranchState(State):
    """What a branch remembers; None for parts that remember nothing."""

    shift: ShiftState | None
    layer: State | None


@state
class StackState(State):
    """One state per branch, in order."""

    branches: tuple[BranchState, ...]


class Branch(Streaming):
    """One residual branch: x -> layer(shift(norm(x))), times a learned gain under ReZero.

    Args:
        layer: maps (B, N, D) to (B, N, D); with ``init_state`` if it remembers, and then a ``forward`` that takes ``carry``, or ``extend``.
        dim: D.
        norm: "layer", "scale" or "rezero".
        reads: the shared arguments that ``layer`` takes by keyword.
        token_shift: how many tokens lend channels to each before the layer (True: one).
        causal: direction of the shift.
    """

    def __init__(
        self, layer: nn.Module, *, dim: int, norm: str = "layer", reads: Sequence[str] = (), token_shift: int = False, causal: bool = True
    ):
        super().__init__()
        self.norm: Any = make_norm(norm, dim)
        self.shift: Any = TokenShift(dim, causal=causal, tokens=int(token_shift)) if token_shift else None
        self.layer: Any = layer
        self.gain = Gain() if norm == "rezero" else None
        self.reads = tuple(reads)

    def forward(self, x: Tensor, arguments: Arguments, *, carry: Carry | None = None) -> Tensor:
        """What the branch adds to the residual stream: (B, N, D) -> (B, N, D). ``carry``: of a :class:`BranchState`."""
        return self.after_norm(x if self.norm is None else self.norm(x), arguments, carry)

    def after_norm(self, x: Tensor, arguments: Arguments, carry: Carry | None = None) -> Tensor:
        """As ``forward``, of a stream that has been normed."""
        mask = arguments.get("mask")
        if carry is None:
            x = x if self.shift is None else self.shift(x, mask)
            x = self.layer(x, **{name: arguments[name] for name in self.reads if name in arguments})
        else:
            x = self._step(x, mask, {name: arguments[name] for name in self.reads if name in arguments and name not in CONTEXT}, carry)
        return x if self.gain is None else self.gain(x)

    def _step(self, x: Tensor, mask: Tensor | None, given: Arguments, carry: Carry) -> Tensor:
        shift, inner = carry.before.shift, carry.before.layer
        if self.shift is not None:
            x, shift = advance(self.shift, x, mask, state=shift)
        if inner is None:
            x = self.layer(x, **given)
        else:
            x, inner = advance(self.layer, x, state=inner, **given)
        carry.after = BranchState(shift, inner)
        return x

    def init_state(self, batch_size: int, arguments: Arguments, *, device: torch.device, dtype: torch.dtype) -> BranchState:
        """The state before the first token; ``arguments`` may hold a context, which is read here once and for all."""
        shift = None if self.shift is None else part_with(self.shift, "init_state").init_state(batch_size, device=device, dtype=dtype)
        layer = part_with(self.layer, "init_state")
        if layer is None:
            return BranchState(shift, None)
        context = {name: arguments[name] for name in CONTEXT if name in self.reads and name in arguments}
        return BranchState(shift, layer.init_state(batch_size, device=device, dtype=dtype, **context))

    def extend(self, x: Tensor, state: BranchState, arguments: Arguments) -> tuple[Tensor, BranchState]:
        """As ``forward`` for the next piece."""
        return self._carried(x, arguments, state=state)


class ResidualStack(Streaming):
    """Branches one after another, each added to the stream.

    Args:
        blocks: one dict of named branches per layer; None values are left out.
        reversible: two streams that take turns (RevNet, arXiv 1707.04585): activations are recomputed in backward from the outputs, and
            the result is the mean of the streams. Memory does not grow with depth.
        checkpointing: recompute each branch in backward from its input.

    Raises:
        ValueError: if both ``reversible`` and ``checkpointing`` are asked for.
    """

    def __init__(self, blocks: Iterable[dict[str, Branch | None]], *, reversible: bool = False, checkpointing: bool = False):
        super().__init__()
        require(not (reversible and checkpointing), "reversible=True already recomputes activations: leave checkpointing=False with it")
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: branch for name, branch in block.items() if branch is not None}) for block in blocks
        )
        self.reversible, self.checkpointing = reversible, checkpointing

    def branches(self) -> list[Branch]:
        """Every branch, in the order in which they run."""
        blocks: Any = self.blocks
        return [branch for block in blocks for branch in block.values()]

    def forward(self, x: Tensor, *, carry: Carry | None = None, **arguments: Any) -> Tensor:
        """(B, N, D) -> (B, N, D); ``arguments`` go to the branches that read them. ``carry``: of a :class:`StackState`."""
        if carry is not None:
            return self._step(x, arguments, carry)
        if self.reversible:
            return run_reversible(self.branches(), x, arguments)
        delta = None
        for branch in self.branches():
            if self.checkpointing and torch.is_grad_enabled() and not is_transformed():
                x = x + recomputed(hold(branch), branch, x, arguments)
                continue
            both = sum_and_norm(branch.norm, x, delta) if is_untouched(branch, Branch) else None
            if both is not None:
                x, y = both
                delta = branch.after_norm(y, arguments)
            else:
                x = x if delta is None else x + delta
                delta = branch(x, arguments)
        return x if delta is None else x + delta

    def _step(self, x: Tensor, arguments: Arguments, carry: Carry) -> Tensor:
        states = []
        first = second = x  # the same tensor twice when there is only one stream
        for branch, before in zip(self.branches(), carry.before.branches, strict=True):
            delta, after = advance(branch, second if self.reversible else first, arguments, state=before)
            states.append(after)
            first = first + delta
            if self.reversible:  # the streams take turns
                first, second = second, first
        carry.after = StackState(tuple(states))
        return (first + second) / 2 if self.reversible else first

    def init_state(self, batch_size: int, *, device: torch.device, dtype: torch.dtype, **arguments: Any) -> StackState:
        """The state of every branch before the first token."""
        parts = (part_with(branch, "init_state") for branch in self.branches())
        return StackState(tuple(part.init_state(batch_size, arguments, device=device, dtype=dtype) for part in parts))

    def extend(self, x: Tensor, state: StackState, **arguments: Any) -> tuple[Tensor, StackState]:
        """(B, N, D) and the state before -> (B, N, D) and the state after."""
        return self._carried(x, state=state, **arguments)
