"""What happens in one segment of a Feedback Transformer: the layers, and the memory that they share.

Axes: B batch, n tokens of the segment, S keys, D width, L layers, G key-value maps, H heads, K head width, P places of the open
segment.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..attention.feedback import FeedbackAttention, FeedbackMemory
from ..attention.softmax import SoftmaxAttention
from ..layers.norms import Gain, make_norm
from ..layers.residual import BranchState
from .backbone import make_branch, make_feed_forward
from .config import BackboneConfig


class FeedbackLayer(nn.Module):
    """One layer: memory, context where there is one, feed-forward; each residual."""

    def __init__(self, config: BackboneConfig, *, cross_attention: bool = False, context_dim: int | None = None):
        super().__init__()
        self.norm = make_norm(config.norm, config.dim)
        self.attention = FeedbackAttention(config.dim, heads=config.heads, head_dim=config.head_dim, dropout=config.attention_dropout)
        self.gain = Gain() if config.norm == "rezero" else None
        self.cross_attention = None
        if cross_attention:
            # Without an output bias, a row whose context is empty gets exactly nothing from it.
            cross = SoftmaxAttention(
                config.dim,
                heads=config.heads,
                head_dim=config.head_dim,
                dropout=config.attention_dropout,
                out_bias=False,
                context_dim=context_dim,
            )
            self.cross_attention = make_branch(config, cross, reads=("context", "context_mask"))
        self.feed_forward = make_feed_forward(config)

    def ask(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, D) -> the normed input (B, n, D), of which keys inside a segment are made, and the queries (B, H, n, K)."""
        normed = x if self.norm is None else self.norm(x)
        return normed, self.attention.queries(normed)

    def add_attention(self, x: Tensor, delta: Tensor, present: Tensor | None) -> Tensor:
        """x plus what attention gave, in rows where there was something to see: ``present`` (B,) bool, None: in all."""
        if self.gain is not None:
            delta = self.gain(delta)
        return x + (delta if present is None else delta.masked_fill(~present[:, None, None], 0.0))

    def rest(self, x: Tensor, context: BranchState | None) -> Tensor:
        """The layer after its attention to the memory."""
        if self.cross_attention is not None and context is not None:
            x = x + self.cross_attention.extend(x, context, {})[0]
        return x + self.feed_forward(x, {})


class Before(NamedTuple):
    """What the open segment of a state gives to the first segment of a call."""

    open: Tensor  # (B, P, L, 2, H, K)
    slot: int  # places of it that are taken in every row
    keep: Tensor | None  # (B, n): places from ``slot`` on where a row has its own past, so that the new token there is no token


class Step(NamedTuple):
    """What the layers of one segment read besides their input."""

    window: list[tuple[Tensor, Tensor]]  # keys and values of memories (B, H, S, K), one pair per key-value map; empty: no memory
    bias: Tensor  # broadcasts to (B, H, n, S + n)
    context: tuple[BranchState, ...]
    present: Tensor | None = None  # (B,) bool, rows that have anything to attend to; None: all
    inside: bool = False  # attend inside the segment
    first: tuple[Tensor, Tensor] | None = None  # what the first layer asks: it needs no memory, so it is made for all segments at once
    before: Before | None = None


class FeedbackStack(nn.Module):
    """The layers, and the memory that they share.

    Args:
        layers: L of them.
        memory: merges their outputs.
    """

    def __init__(self, layers: Iterable[FeedbackLayer], memory: FeedbackMemory):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.memory = memory

    def forward(self, x: Tensor, step: Step) -> tuple[list[Tensor], list[Tensor]]:
        """One segment.

        Returns:
            The input and each layer's output, L + 1 of (B, n, D); and, with ``step.inside``, per layer the keys and values (B, n', 2, H, K)
            of the segment so far.
        """
        hidden, inside = [x], []
        for index in range(len(self.layers)):
            layer = self._layer(index)
            runs = [step.window[index % len(step.window)]] if step.window else []
            if runs or step.inside:
                normed, queries = step.first if index == 0 and step.first is not None else layer.ask(x)
                if step.inside:
                    inside.append(_join(self.memory.of_layer(normed, index), index, step.before))
                    keys, values = inside[-1].permute(2, 0, 3, 1, 4)
                    runs.append((keys, values))
                x = layer.add_attention(x, layer.attention(queries, runs, step.bias), step.present)
            x = layer.rest(x, step.context[index] if step.context else None)
            hidden.append(x)
        return hidden, inside

    def ask_first(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """For :attr:`Step.first`, of any number of tokens."""
        return self._layer(0).ask(x)

    def read_context(
        self, context: Tensor, context_mask: Tensor | None, *, device: torch.device, dtype: torch.dtype
    ) -> tuple[BranchState, ...]:
        """Keys and values of a context, once for all steps: one state per layer."""
        arguments = {"context": context, "context_mask": context_mask}
        branches = (self._layer(index).cross_attention for index in range(len(self.layers)))
        return tuple(b.init_state(context.shape[0], arguments, device=device, dtype=dtype) for b in branches if b is not None)

    def _layer(self, index: int) -> FeedbackLayer:
        layer = self.layers[index]
        assert isinstance(layer, FeedbackLayer)
        return layer


def _join(entries: Tensor, layer: int, before: Before | None) -> Tensor:
    """(B, n, 2, H, K) after the open segment's places: (B, slot + n, 2, H, K)."""
    if before is None:
        return entries
    past = before.open[:, :, layer].to(entries.dtype)
    if before.keep is not None:
        own = past[:, before.slot : before.slot + entries.shape[1]]
        entries = torch.where(before.keep[:, :, None, None, None], own, entries)
    return torch.cat((past[:, : before.slot], entries), dim=1) if before.slot else entries
