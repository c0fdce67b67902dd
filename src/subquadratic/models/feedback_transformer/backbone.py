"""Feedback Transformer (Fan et al., arXiv 2002.09402): all layers of a step attend to a memory of earlier steps that merges all their
layers.

Axes: B batch, N length, S length of a context, D width, L layers, G key-value maps, H heads, K head width, M memories, C segment length, P
places of the open segment (C, or none for C = 1).
"""


import torch
from torch import Tensor

from ...attention.feedback.layer import FeedbackMemory, RelativeBias
from ...attention.feedback.segments import bring_back, lay_out
from ...core.errors import check_mask, check_sequence, require
from ...core.numerics import HIDDEN, exact_dtype
from ...core.padding import count_real, zero_padding
from ...layers.norms.layer import make_norm
from ...layers.residual import BranchState
from ...layers.streaming import Carry, Streaming, default_device, part_with
from ..backbone import context_arguments
from ..configs.feedback_transformer import FeedbackTransformerConfig
from .fast import run_fast, runs_fast
from .loop import FeedbackState, Loop
from .stack import FeedbackLayer, FeedbackStack


class FeedbackTransformer(Streaming):
    """The backbone: (B, N, D) -> (B, N, D), causal; see :class:`FeedbackTransformerConfig`.

    A row's segments begin at its real tokens 0, C, 2C, ...; padding is as if it were not there. An empty memory adds nothing. Carry memory
    over windows with ``extend``, which gradients flow through; ``state.detach()`` cuts them, ``state.reset(rows)`` begins new documents.

    Cost O(N M D) for attention, in N / C steps one after another. Keys and values of the memory are stored once, not once a step. With
    segments of one token, all steps are one operation to autograd, where `runs_fast` (fast.py) allows.
    Second derivatives and forward mode take a step of PyTorch's operators per token, and keep what each made.
    """

    def __init__(self, config: FeedbackTransformerConfig):
        super().__init__()
        self.config = config
        memory = FeedbackMemory(
            config.dim,
            depth=config.depth,
            heads=config.heads,
            head_dim=config.head_dim,
            share_key_value=config.share_key_value,
            keep_last_hidden=config.keep_last_hidden,
            # Whatever the branches do: an unnormed mixture of the residual stream would make scores that grow with the embedding.
            norm=make_norm("scale" if config.norm == "scale" else "layer", config.dim),
        )
        layers = (
            FeedbackLayer(config, cross_attention=config.cross_attention, context_dim=config.context_dim) for _ in range(config.depth)
        )
        self.stack = FeedbackStack(layers, memory)
        self.relative_bias = None
        if config.relative_bias:
            self.relative_bias = RelativeBias(config.heads, buckets=config.relative_buckets, max_distance=config.relative_max_distance)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        carry: Carry | None = None,
    ) -> Tensor:
        """A whole sequence, beginning with an empty memory.

        Args:
            x: (B, N, D).
            mask: (B, N) bool, True = real token; padding may be anywhere.
            context: (B, S, context_dim), where the configuration has cross-attention.
            context_mask: (B, S) bool.
            carry: the state of a stream, of which ``x`` is the next piece: see ``extend``. It holds the context.

        Returns:
            (B, N, D), zero at padded positions. No norm follows the last layer: the heads have one.

        Raises:
            ValueError: for wrong shapes, or a missing or unexpected context.
        """
        self._check(x, mask)
        if carry is not None:
            require(context is None, "a context is read once, in init_state, and not again in extend")
            state = carry.before
            require(state.seen.shape[0] == x.shape[0], f"state must have the batch of x, {x.shape[0]}, got {state.seen.shape[0]}")
            y, carry.after = self._run(x, mask, state.context, state)
            return y
        contexts = self._read_context(x.shape[0], context, context_mask, device=x.device, dtype=x.dtype)
        return self._run(x, mask, contexts, None)[0]

    def init_state(
        self,
        batch_size: int,
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> FeedbackState:
        """The state before the first token.

        Args:
            batch_size: B.
            context, context_mask: as in ``forward``; read here once, not again in ``extend``.
            device, dtype: of the state; None: the parameters'.
        """
        place, kind = default_device(self, device, dtype)
        contexts = self._read_context(batch_size, context, context_mask, device=place, dtype=kind)
        config, shape = self.config, part_with(self.inner_stack.memory, "of_layer").shape
        memory = torch.zeros(batch_size, config.memory_length + config.spare, *shape, device=place, dtype=kind)
        inside = torch.zeros(batch_size, config.spare, config.depth, *shape[1:], device=place, dtype=kind) if config.spare else None
        return FeedbackState(torch.zeros(batch_size, dtype=torch.int64, device=place), memory, inside, contexts)

    def extend(self, x: Tensor, state: FeedbackState, *, mask: Tensor | None = None) -> tuple[Tensor, FeedbackState]:
        """The next piece of the sequence, of any length: (B, N, D) and the state before -> (B, N, D) and the state after.

        Equal to ``forward`` over all pieces at once, up to rounding; a segment may be cut anywhere. The state given is not changed.
        """
        return self._carried(x, state=state, mask=mask)

    def _run(
        self, x: Tensor, mask: Tensor | None, contexts: tuple[BranchState, ...], state: FeedbackState | None
    ) -> tuple[Tensor, FeedbackState | None]:
        """Segment after segment. Without a state before, none is made after."""
        size = self.config.segment_length
        phase = None if state is None or size == 1 else state.seen % size
        segments = lay_out(zero_padding(x, mask), mask, phase, size)
        if segments.x.shape[1] == 0:
            return torch.zeros_like(x), state
        count = None if state is None else count_real(mask, x.shape[0], x.shape[1], x.device)
        if runs_fast(self.config, self.stack, x):
            table = None if self.relative_bias is None else self.bias_table
            y, after = run_fast(self.config, self.stack, table, segments, state, count)
        else:
            loop = Loop(self.config, self.stack, self.bias_table, segments, state, contexts)
            y = torch.cat([loop.segment(start) for start in range(0, loop.total, size)], dim=1)
            after = None if count is None else loop.after(count)
        return bring_back(y, segments, mask), after

    @property
    def inner_stack(self) -> FeedbackStack:
        """The stack itself, also where an adapter is around it."""
        return part_with(self.stack, "ask_first")

    def bias_table(self, memories: int, inside: int, *, like: Tensor) -> Tensor:
        """Attention bias by place in a segment, on the device of ``like``.

        Returns:
            (H or 1, C', memories + inside): for a token in place s, first the ``memories`` before the segment, the last one at distance s +
            1, then the segment's own places, the future hidden. C' = max(inside, 1).
        """
        distance = torch.arange(max(inside, 1), device=like.device)[:, None] + memories
        distance = distance - torch.arange(memories + inside, device=like.device)
        if self.relative_bias is None:
            bias = torch.zeros(1, *distance.shape, device=like.device, dtype=exact_dtype(like))
        else:
            bias = self.relative_bias(distance)
        return bias.masked_fill(distance < 0, HIDDEN) if inside else bias

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        check_sequence(x, self.config.dim)
        check_mask(mask, x.shape[0], x.shape[1])

    def _read_context(
        self, batch: int, context: Tensor | None, context_mask: Tensor | None, *, device: torch.device, dtype: torch.dtype
    ) -> tuple[BranchState, ...]:
        context_arguments(self, self.config, context, context_mask)
        if context is None:
            return ()
        require(context.shape[0] == batch, f"context must have the batch of x, {batch}, got {context.shape[0]}")
        return self.inner_stack.read_context(context, context_mask, device=device, dtype=dtype)
