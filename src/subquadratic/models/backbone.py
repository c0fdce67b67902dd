"""What the backbones that are plain stacks of residual blocks share: checks, padding, streaming.

Axes: B batch, N length, D width.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.feed_forward import FeedForward
from ..layers.multi_head import position_turns
from ..layers.residual import Branch, ResidualStack, StackState, default_device
from ..ops.errors import NotCausalError, require
from ..ops.padding import checked, count_real, zero_padding
from ..ops.state import State, state
from .config import BackboneConfig


@state
class BackboneState(State):
    """What a backbone remembers of the tokens before."""

    stack: StackState
    seen: Tensor  # (B,) int64, real tokens so far


class StackBackbone(nn.Module):
    """A stack of residual blocks, (B, N, D) -> (B, N, D). Subclasses build the blocks and may add arguments that all blocks share."""

    def __init__(self, config: BackboneConfig, blocks: Iterable[dict[str, Branch | None]]):
        super().__init__()
        self.config = config
        self.stack = ResidualStack(blocks, reversible=config.reversible, checkpointing=config.checkpointing)

    def shared(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> dict[str, Any]:
        """Arguments computed once for all blocks: ``turns``, with rotary positions, and what a subclass adds. ``seen``: (B,) real tokens
        before this piece; None: a whole sequence."""
        return {"turns": position_turns(x, mask, seen, self.config.head_width)} if self.config.positions == "rotary" else {}

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, context: Tensor | None = None, context_mask: Tensor | None = None
    ) -> Tensor:
        """The whole sequence at once.

        Args:
            x: (B, N, D).
            mask: (B, N) bool, True = real token; padding may be anywhere.
            context: (B, S, context_dim), where the configuration has cross-attention.
            context_mask: (B, S) bool.

        Returns:
            (B, N, D), zero at padded positions. No norm follows the last block: the heads have one.

        Raises:
            ValueError: for wrong shapes, or a context missing or given in vain.
        """
        x = checked(x, mask, self.config.dim)
        cross = context_arguments(self, self.config, context, context_mask)
        return zero_padding(self.stack(x, mask=mask, **cross, **self.shared(x, mask, None)), mask)

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
        stack = self.stack.init_state(batch_size, device=place, dtype=kind, **context_arguments(self, self.config, context, context_mask))
        return BackboneState(stack, torch.zeros(batch_size, dtype=torch.int64, device=place))

    def extend(self, x: Tensor, state: BackboneState, *, mask: Tensor | None = None) -> tuple[Tensor, BackboneState]:
        """The next piece of the sequence, of any length: (B, N, D) and the state before -> (B, N, D) and the state after.

        Equal to ``forward`` over all pieces at once, up to rounding. The state given is not changed.
        """
        if not self.config.causal:
            raise NotCausalError(f"this {type(self).__name__}")
        x = checked(x, mask, self.config.dim)
        y, stack = self.stack.extend(x, state.stack, mask=mask, **self.shared(x, mask, state.seen))
        return zero_padding(y, mask), BackboneState(stack, state.seen + count_real(mask, x.shape[0], x.shape[1], x.device))


def context_arguments(
    model: nn.Module, config: BackboneConfig, context: Tensor | None, context_mask: Tensor | None
) -> dict[str, Tensor | None]:
    """The context that a model's cross-attention reads, by the layers' names; empty without cross-attention.

    Raises:
        ValueError: for a context missing or given in vain.
    """
    name = type(model).__name__
    if not getattr(config, "cross_attention", False):
        require(context is None and context_mask is None, f"this {name} has no cross-attention: build it with cross_attention=True")
        return {}
    if context is None:
        raise ValueError(f"this {name} has cross_attention=True: pass context, (batch, length, width)")
    return {"context": context, "context_mask": context_mask}


def make_branch(
    config: BackboneConfig, layer: nn.Module, *, reads: tuple[str, ...] = ("mask", "turns"), token_shift: bool = False
) -> Branch:
    """A residual branch with the configuration's norm."""
    return Branch(layer, dim=config.dim, norm=config.norm, reads=reads, token_shift=token_shift, causal=config.causal)


def make_feed_forward(config: BackboneConfig, *, token_shift: bool = False) -> Branch:
    """The feed-forward branch of a configuration."""
    layer = FeedForward(config.dim, mult=config.ff_mult, glu=config.ff_glu, chunks=config.ff_chunks, dropout=config.dropout)
    return make_branch(config, layer, reads=(), token_shift=token_shift)
