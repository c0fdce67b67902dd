"""What the backbones that are plain stacks of residual blocks share: checks, padding, streaming.

Axes: B batch, N length, D width.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.backend import is_traced
from ..core.errors import NotCausalError, require
from ..core.padding import checked, count_on, zero_padding
from ..core.recomputation import streamed
from ..core.state import State, state
from ..layers.feed_forward.layer import FeedForward
from ..layers.multi_head import position_turns
from ..layers.residual import Branch, ResidualStack, StackState
from ..layers.streaming import Carry, Streaming, advance, default_device, part_with
from .config import BackboneConfig
from .row_by_row import Row, each_alone, needed, rows_alone

STRETCH = 8192  # tokens whose activations exist at a time, with checkpointing: some 100 kB each at width 256 and depth 4


@state
class BackboneState(State):
    """What a backbone remembers of the preceding tokens."""

    stack: StackState
    seen: Tensor  # (B,) int64, real tokens so far


class StackBackbone(Streaming):
    """A stack of residual blocks, (B, N, D) -> (B, N, D). Subclasses build the blocks and may add arguments that all blocks share."""

    constant_state: ClassVar[bool] = True
    """The state of a causal model does not grow with the sequence."""

    def __init__(self, config: BackboneConfig, blocks: Iterable[dict[str, Branch | None]]):
        super().__init__()
        self.config = config
        self.stack = ResidualStack(blocks, reversible=config.reversible, checkpointing=config.checkpointing)

    def shared(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> dict[str, Any]:
        """Arguments computed once for all blocks: ``turns``, with rotary positions, and what a subclass adds. ``seen``: (B,) real tokens
        before this piece; None: a whole sequence."""
        return {"turns": position_turns(x, mask, seen, self.config.head_width)} if self.config.positions == "rotary" else {}

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        carry: Carry | None = None,
    ) -> Tensor:
        """The whole sequence at once.

        Args:
            x: (B, N, D).
            mask: (B, N) bool, True = real token; padding may be anywhere.
            context: (B, S, context_dim), where the configuration has cross-attention.
            context_mask: (B, S) bool.
            carry: the state of a stream, of which ``x`` is the next piece: see ``extend``. It holds the context.

        Returns:
            (B, N, D), zero at padded positions. No norm follows the last block: the heads have one.

        Raises:
            ValueError: for wrong shapes, or a missing or unexpected context.
        """
        x = checked(x, mask, self.config.dim)
        if carry is not None:
            require(context is None, "a context is read once, in init_state, and not again in extend")
            y, carry.after = self._extend(x, carry.before, mask)
            return zero_padding(y, mask)
        cross = context_arguments(self, self.config, context, context_mask)
        mask = needed(mask)
        rows = rows_alone(self, x, mask)
        if rows is not None:
            return each_alone(rows, x, lambda row, own: self._whole(own, None, context_of(row, cross)))
        return zero_padding(self._whole(x, mask, cross), mask)

    def _whole(self, x: Tensor, mask: Tensor | None, cross: dict[str, Tensor | None]) -> Tensor:
        if self.streams_in_backward(*x.shape[:2]):
            return self._stretches(x, mask, cross)
        return self.stack(x, mask=mask, **cross, **self.shared(x, mask, None))

    def streams_in_backward(self, batch: int, length: int) -> bool:
        """Whether checkpointing recomputes all layers of a piece of (batch, length) tokens, instead of one branch of the whole: activations
        of one stretch exist then, however long the sequence is."""
        return (
            self.config.checkpointing
            and self.config.causal
            and self.constant_state
            and batch * length > 2 * STRETCH
            and torch.is_grad_enabled()
            and not is_traced()
        )

    @staticmethod
    def stretch_length(batch: int) -> int:
        """Tokens of each row in a stretch."""
        return max(1, STRETCH // batch)

    def _stretches(self, x: Tensor, mask: Tensor | None, cross: dict[str, Tensor | None]) -> Tensor:
        """(B, N, D) -> (B, N, D): the sequence streamed; what is kept of a stretch is its input and the state before it."""
        state = BackboneState(
            part_with(self.stack, "init_state").init_state(x.shape[0], device=x.device, dtype=x.dtype, **cross),
            torch.zeros(x.shape[0], dtype=torch.int64, device=x.device),
        )
        size = self.stretch_length(x.shape[0])
        pieces = x.split(size, dim=1)  # one gradient in the end, where slices would make one of full length each
        masks = [None] * len(pieces) if mask is None else mask.split(size, dim=1)
        step = lambda piece, real, before: self._extend(piece, before, real)  # noqa: E731
        return torch.cat(streamed(self, step, state, zip(pieces, masks, strict=True)), dim=1)

    def init_state(
        self,
        batch_size: int,
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> BackboneState:
        """The state before the first token.

        Args:
            batch_size: B.
            context, context_mask: as in ``forward``; read here once, not again in ``extend``.
            device, dtype: of the state; None: the parameters'. Summaries are float32 at least.

        Raises:
            NotCausalError: if the model is bidirectional.
        """
        if not self.config.causal:
            raise NotCausalError(f"this {type(self).__name__}")
        place, kind = default_device(self, device, dtype)
        cross = context_arguments(self, self.config, context, context_mask)
        stack = part_with(self.stack, "init_state").init_state(batch_size, device=place, dtype=kind, **cross)
        return BackboneState(stack, torch.zeros(batch_size, dtype=torch.int64, device=place))

    def extend(self, x: Tensor, state: BackboneState, *, mask: Tensor | None = None) -> tuple[Tensor, BackboneState]:
        """The next piece of the sequence, of any length: (B, N, D) and the state before -> (B, N, D) and the state after.

        Equal to ``forward`` over all pieces at once, up to rounding. The state given is not changed.
        """
        if not self.config.causal:
            raise NotCausalError(f"this {type(self).__name__}")
        return self._carried(x, state=state, mask=mask)

    def _extend(self, x: Tensor, state: BackboneState, mask: Tensor | None) -> tuple[Tensor, BackboneState]:
        y, stack = self._advance(x, state.stack, mask, self.shared(x, mask, state.seen))
        return y, BackboneState(stack, count_on(state.seen, mask, x.shape[1]))

    def _advance(self, x: Tensor, state: StackState, mask: Tensor | None, shared: dict[str, Any]) -> tuple[Tensor, StackState]:
        """The next piece through the stack."""
        return advance(self.stack, x, state=state, mask=mask, **shared)


def context_arguments(
    model: nn.Module, config: BackboneConfig, context: Tensor | None, context_mask: Tensor | None
) -> dict[str, Tensor | None]:
    """The context that a model's cross-attention reads, by the layers' names; empty without cross-attention.

    Raises:
        ValueError: for a missing or unexpected context.
    """
    name = type(model).__name__
    if not getattr(config, "cross_attention", False):
        require(context is None and context_mask is None, f"this {name} has no cross-attention: build it with cross_attention=True")
        return {}
    if context is None:
        raise ValueError(f"this {name} has cross_attention=True: pass context, (batch, length, width)")
    return {"context": context, "context_mask": context_mask}


def context_of(row: Row, cross: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """What one row of a batch reads."""
    return {name: None if tensor is None else tensor[row.index : row.index + 1] for name, tensor in cross.items()}


def make_branch(
    config: BackboneConfig, layer: nn.Module, *, reads: tuple[str, ...] = ("mask", "turns"), token_shift: int = False
) -> Branch:
    """A residual branch with the configuration's norm."""
    return Branch(layer, dim=config.dim, norm=config.norm, reads=reads, token_shift=token_shift, causal=config.causal)


def make_feed_forward(config: BackboneConfig, *, token_shift: int = False) -> Branch:
    """The feed-forward branch of a configuration."""
    layer = FeedForward(config.dim, mult=config.ff_mult, glu=config.ff_glu, chunks=config.ff_chunks, dropout=config.dropout)
    return make_branch(config, layer, reads=(), token_shift=token_shift)
