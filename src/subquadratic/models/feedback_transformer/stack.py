"""What happens in one segment of a Feedback Transformer: the layers, and the memory that they share.

Axes: B batch, n tokens of the segment, S keys, D width, L layers, G key-value maps, H heads, K head width, P places of the open
segment.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...attention.feedback.layer import FeedbackAttention, FeedbackMemory
from ...attention.softmax.layer import SoftmaxAttention
from ...layers.norms.layer import Gain, ScaleNorm, make_norm
from ...layers.residual import BranchState
from ...layers.streaming import advance, part_with
from ...layers.untouched import is_untouched
from ..backbone import make_branch, make_feed_forward
from ..config import BackboneConfig


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

    def forward(self, x: Tensor, step: "Step", index: int, memory: FeedbackMemory) -> Tensor:
        """(B, n, D) -> (B, n, D): attention to the memories of earlier segments and, with ``step.inside``, inside this one; to the context;
        feed-forward. Of layer ``index``; ``memory`` makes the keys and values inside a segment, which are left in ``step``."""
        runs = [step.window[index % len(step.window)]] if step.window else []
        if runs or step.inside:
            normed, queries = step.first if index == 0 and step.first is not None else (self._normed(x), None)
            if step.inside:
                entries = part_with(memory, "of_layer").of_layer(normed, index)
                step.entries.append(_join(entries, index, step.before))
                keys, values = step.entries[-1].permute(2, 0, 3, 1, 4)
                runs.append((keys, values))
            x = self._add(x, self.attention(normed, runs, step.bias, queries=queries), step.present)
        if self.cross_attention is not None and step.context:
            x = x + advance(self.cross_attention, x, {}, state=step.context[index])[0]
        return x + self.feed_forward(x, {})

    def ask(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """(B, n, D) -> the normed input (B, n, D), of which keys inside a segment are made, and the queries (B, H, n, K), for
        :attr:`Step.first`; None where somebody listens to these modules, each of which is then called once a segment."""
        if not (
            is_untouched(self, FeedbackLayer)
            and is_untouched(self.attention, FeedbackAttention)
            and is_untouched(self.attention.query, nn.Linear)
            and (self.norm is None or is_untouched(self.norm, nn.LayerNorm, ScaleNorm))
        ):
            return None
        normed = self._normed(x)
        return normed, self.attention.queries(normed)

    def _normed(self, x: Tensor) -> Tensor:
        return x if self.norm is None else self.norm(x)

    def _add(self, x: Tensor, delta: Tensor, present: Tensor | None) -> Tensor:
        """x plus what attention gave, in rows where there was something to see: ``present`` (B,) bool, None: in all."""
        if self.gain is not None:
            delta = self.gain(delta)
        return x + (delta if present is None else delta.masked_fill(~present[:, None, None], 0.0))


class Before(NamedTuple):
    """What the open segment of a state gives to the first segment of a call."""

    open: Tensor  # (B, P, L, 2, H, K)
    slot: int  # places of it that are taken in every row
    keep: Tensor | None  # (B, n): places from ``slot`` on where a row has its own past, so that the new token there is no token


class Step:
    """What the layers of one segment read besides their input, and what they leave. (Not a tuple: what copies the arguments of a call
    hands on the same object.)

    Args:
        window: keys and values of memories (B, H, S, K), one pair per key-value map; empty: no memory.
        bias: broadcasts to (B, H, n, S + n).
        context: one state per layer; empty: none.
        present: (B,) bool, rows that have anything to attend to; None: all.
        inside: attend inside the segment.
        first: what the first layer asks: it needs no memory, so it is made for all segments at once; None: it is made here.
        before: what the open segment of a state gives.
    """

    def __init__(
        self,
        window: list[tuple[Tensor, Tensor]],
        bias: Tensor,
        *,
        context: tuple[BranchState, ...] = (),
        present: Tensor | None = None,
        inside: bool = False,
        first: tuple[Tensor, Tensor] | None = None,
        before: Before | None = None,
    ):
        self.window, self.bias, self.context, self.present = window, bias, context, present
        self.inside, self.first, self.before = inside, first, before
        self.hidden: list[Tensor] = []
        """The input and each layer's output, L + 1 of (B, n, D)."""
        self.entries: list[Tensor] = []
        """With ``inside``, per layer the keys and values (B, n', 2, H, K) of the segment so far."""


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

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """One segment through all layers, (B, n, D) -> (B, n, D); what a memory is made of is left in ``step.hidden``."""
        step.hidden.append(x)
        for index, layer in enumerate(self.layers):
            x = layer(x, step, index, self.memory)
            step.hidden.append(x)
        return x

    def ask_first(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """For :attr:`Step.first`, of any number of tokens."""
        first = self.layers[0]
        return first.ask(x) if is_untouched(self, FeedbackStack) and type(first) is FeedbackLayer else None

    def read_context(
        self, context: Tensor, context_mask: Tensor | None, *, device: torch.device, dtype: torch.dtype
    ) -> tuple[BranchState, ...]:
        """Keys and values of a context, once for all steps: one state per layer."""
        arguments = {"context": context, "context_mask": context_mask}
        branches = (part_with(layer, "ask").cross_attention for layer in self.layers)
        readers = (part_with(branch, "init_state") for branch in branches if branch is not None)
        return tuple(reader.init_state(context.shape[0], arguments, device=device, dtype=dtype) for reader in readers)


def _join(entries: Tensor, layer: int, before: Before | None) -> Tensor:
    """(B, n, 2, H, K) after the open segment's places: (B, slot + n, 2, H, K)."""
    if before is None:
        return entries
    past = before.open[:, :, layer].to(entries.dtype)
    if before.keep is not None:
        own = past[:, before.slot : before.slot + entries.shape[1]]
        entries = torch.where(before.keep[:, :, None, None, None], own, entries)
    return torch.cat((past[:, : before.slot], entries), dim=1) if before.slot else entries
