"""Perceiver AR (Hawthorne et al., arXiv 2202.07765): the last positions of a long sequence are latents, which attend to
all of it once and then only to each other.

Axes: B batch, N length, S length (keys), D width, W width of a buffer.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...attention.latent.layer import LatentAttention, LatentCache
from ...attention.latent.right_aligned import Counts, allowed_pairs, last_slots, pack_right, slot_positions
from ...core.backend import is_transformed
from ...core.errors import check_mask, check_sequence, require, require_batch_size, require_positive
from ...core.padding import pack, zero_padding
from ...core.recomputation import hold, recomputed
from ...core.state import State, state
from ...core.tracing import may_look
from ...layers.norms.layer import Gain, make_norm
from ...layers.residual import Branch, ResidualStack, StackState
from ...layers.streaming import Carry, Streaming, advance, default_device, part_with
from ..backbone import make_branch, make_feed_forward
from ..configs.perceiver_ar import PerceiverARConfig
from ..row_by_row import Row, needed, rows_alone
from .windows import Window, rounds_of

PARTS = 1_000_000  # a dropout fraction in integers, so that masked and unmasked rows round alike


@state
class PerceiverARState(State):
    """A stream so far. All buffers are aligned right."""

    seen: Tensor  # (B,) int64, real tokens so far
    empty: Tensor | None  # (B,) int64, leading slots of ``inputs`` that hold nothing; None: the stream has never had padding
    tokens: Tensor  # (B, W, D) the last inputs, from which latents are computed anew; W <= latents
    inputs: tuple[LatentCache, ...]  # per cross layer: keys and values of every token, which never change
    stack: StackState  # keys and values of the latents in use
    outputs: Tensor  # (B, W, D) the last outputs; W <= latents


class CrossLayer(nn.Module):
    """Latents attend to the input, then a feed-forward layer; both residual. Queries come from the latents, keys and
    values from the input itself: a token's are the same whether it is prefix or latent."""

    def __init__(self, config: PerceiverARConfig):
        super().__init__()
        self.norm, self.context_norm = make_norm(config.norm, config.dim), make_norm(config.norm, config.dim)
        self.attention = _attention(config)
        self.gain = Gain() if config.norm == "rezero" else None
        self.feed_forward = make_feed_forward(config)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None,
        *,
        positions: Tensor,
        places: Tensor | None,
        allowed: Tensor | None,
        cache: LatentCache | None = None,
    ) -> Tensor:
        """(B, N, D) latents at ``positions``, and (B, S, D) input at ``places`` or what ``read`` made of it -> (B, N, D)."""
        if cache is None:
            assert context is not None and places is not None
            cache = self.read(context, places)
        y = self.attention(x if self.norm is None else self.norm(x), cache=cache, positions=positions, allowed=allowed)
        x = x + (y if self.gain is None else self.gain(y))
        return x + self.feed_forward(x, {})

    def read(self, context: Tensor, places: Tensor) -> LatentCache:
        """Keys and values of the input."""
        context = context if self.context_norm is None else self.context_norm(context)
        return part_with(self.attention, "read").read(context, places)

    def init_state(self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> LatentCache:
        """No input yet."""
        return part_with(self.attention, "read").init_state(batch_size, device=device, dtype=dtype)


class PerceiverAR(Streaming):
    """(B, N, D) -> (B, min(N, latents), D), outputs of the last positions; see :class:`PerceiverARConfig`.

    ``reversible`` and ``checkpointing`` hold for the latent layers, checkpointing for the cross layers too. Learned,
    fixed and axial positions, and the norm after the last layer, belong to the heads.

    Cost O(N latents D) for each cross layer and O(latents^2 D) for each other one.
    """

    def __init__(self, config: PerceiverARConfig):
        super().__init__()
        self.config = config
        self.cross = nn.ModuleList(CrossLayer(config) for _ in range(config.cross_depth))
        self.stack = ResidualStack(_blocks(config), reversible=config.reversible, checkpointing=config.checkpointing)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, latents: int | None = None, carry: Carry | None = None) -> Tensor:
        """Outputs of the last positions.

        Args:
            x: (B, N, D), any N from 1.
            mask: (B, N) bool, True = real token; padding may be anywhere. A row's latents are its own last real tokens,
                and positions count real tokens only.
            latents: how many, for this call; None: as configured. With no more positions than that, all are latents.
            carry: the state of a stream, of which ``x`` is the next piece: see :meth:`extend`.

        Returns:
            (B, L, D) with L = min(N, latents): row b holds the outputs of its last real tokens, in order, **aligned
            right**; with fewer than L real tokens its first slots are zero. Without a mask these are the positions
            ``[:, -L:]`` of the input.

        Raises:
            ValueError: for wrong shapes, or ``latents`` less than 1.
        """
        check_sequence(x, self.config.dim)
        check_mask(mask, x.shape[0], x.shape[1])
        require_positive(latents=latents)
        if carry is not None:
            require(latents is None, f"latents are for whole sequences: a stream has the configured ones, got latents={latents}")
            return self._step(x, mask, carry)
        mask, latents = needed(mask), latents or self.config.latents
        rows = rows_alone(self, x, mask)
        return self._whole(x, mask, latents) if rows is None else self._row_by_row(rows, x, latents)

    def _row_by_row(self, rows: list[Row], x: Tensor, latents: int) -> Tensor:
        """(B, N, D) -> (B, L, D): a row with fewer real tokens than slots fills the last of these."""
        slots = min(x.shape[1], latents)
        outputs = []
        for row in rows:
            own = row.of(x)
            y = self._whole(own, None, slots) if own.shape[1] else own
            outputs.append(F.pad(y, (0, 0, slots - y.shape[1], 0)))
        return torch.cat(outputs)

    def _whole(self, x: Tensor, mask: Tensor | None, latents: int) -> Tensor:
        length = x.shape[1]
        prefix = length - min(length, latents)
        if mask is None:
            positions = torch.arange(length, device=x.device)
        else:
            order, positions = pack_right(mask)
            x = pack(zero_padding(x, mask), order)
        own, y = positions[..., prefix:], x[:, prefix:]
        context, places = self._drop_prefix(x, positions, prefix)
        over_input, over_latents = (None, None) if mask is None else (allowed_pairs(own, places), allowed_pairs(own, own))
        for layer in self.cross:
            arguments: dict[str, Any] = {"positions": own, "places": places, "allowed": over_input}
            if self.config.checkpointing and torch.is_grad_enabled() and not is_transformed():
                y = recomputed(hold(layer), layer, y, context, **arguments)
            else:
                y = layer(y, context, **arguments)
        y = self.stack(y, positions=own, allowed=over_latents)
        return y if mask is None else zero_padding(y, own >= 0)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> PerceiverARState:
        """The state before the first token; ``device`` and ``dtype`` are the parameters' unless given."""
        require_batch_size(batch_size)
        device, dtype = default_device(self, device, dtype)
        nothing = torch.zeros(batch_size, 0, self.config.dim, device=device, dtype=dtype)
        return PerceiverARState(
            seen=torch.zeros(batch_size, dtype=torch.int64, device=device),
            empty=None,
            tokens=nothing,
            inputs=tuple(part_with(layer, "read").init_state(batch_size, device=device, dtype=dtype) for layer in self.cross),
            stack=self._no_latents(nothing),
            outputs=nothing,
        )

    def extend(self, x: Tensor, state: PerceiverARState, *, mask: Tensor | None = None) -> tuple[Tensor, PerceiverARState]:
        """The next piece of a stream, of any length from 1.

        An output depends on how many latents there are before it, and a stream has no last position to count them from.
        The rule, with t the real tokens of a row so far and X_t these tokens:

        - ``refill="exact"``: the outputs after a piece are the last ones of ``forward(X_t)``. Token by token, each is
          ``forward(X_t)[:, -1]``. Up to ``latents`` tokens that is the same for every split and costs one token's work;
          beyond, every call computes all latents anew.
        - ``refill=stride``: the output at t is ``forward(X_t, latents=l(t))[:, -1]``, with l(t) = t up to ``latents``.
          One token later the model drops to ``latents - stride`` latents, that token's included; then l grows by one a
          token until it is ``latents`` again, and so on: l(t) = latents - stride + (t - latents - 1) mod (stride + 1).
          It depends on t alone, never on the split. Only a drop computes latents anew, every stride + 1 tokens; in
          between a token costs one token's work.

        The prefix is never shortened (prefix dropout is for ``forward``), and a token's keys and values for the cross
        layers are computed once.

        Args:
            x: (B, N, D).
            state: from ``init_state`` or the ``extend`` before; it is not changed.
            mask: (B, N) bool, True = real token. Rows may have different numbers of them.

        Returns:
            (B, min(N, latents), D), the outputs of each row's last real tokens so far, aligned right as in ``forward``:
            without padding these are the piece's; a row with fewer real tokens in the piece than slots shows outputs of
            earlier ones before them, or zeros where there are none. And the state after the piece.

        Raises:
            ValueError: for wrong shapes.

        A piece that is longer than a cycle runs one window of latents per cycle among its last ``latents`` tokens. Once
        a stream has had padding, each call reads the number of tokens per row from the device, and one row's drop
        costs as much as all rows'.
        """
        return self._carried(x, state=state, mask=mask)

    def _step(self, x: Tensor, mask: Tensor | None, carry: Carry) -> Tensor:
        """``extend``: the outputs, with the state after in ``carry``."""
        state = carry.before
        length, width, limit = x.shape[1], state.inputs[0].keys.shape[2], self.config.latents
        if mask is not None and may_look(mask) and bool(mask.all()):
            mask = None
        counts = Counts.of(state.seen, width, length, mask=mask, ragged=state.empty is not None)
        seen, places = state.seen + length, torch.arange(width, width + length, device=x.device)
        if mask is not None:
            order, _ = pack_right(mask)
            x, seen = pack(zero_padding(x, mask), order), state.seen + mask.sum(dim=-1)
        if counts.ragged:
            places = slot_positions(seen, length)

        join = counts.splice(counts.before, counts.after, older=width, newer=length, width=max(counts.after))
        readers = [part_with(layer, "read") for layer in self.cross]
        inputs = tuple(cache.join(reader.read(x, places), join) for reader, cache in zip(readers, state.inputs, strict=True))
        older = state.tokens.shape[1]
        tokens = counts.splice(counts.before, counts.after, older=older, newer=length, width=older + length)(state.tokens, x)
        stack, outputs = state.stack, state.outputs
        for windows in rounds_of(self.config, counts):
            y, stack = self._run(windows, counts, tokens, inputs, stack)
            older, newer = outputs.shape[1], y.shape[1]
            emits, stops = [window.emit for window in windows], [window.stop for window in windows]
            outputs = counts.splice(emits, stops, older=older, newer=newer, width=min(limit, older + newer))(outputs, y)
        if all(self.config.latents_at(count) == limit for count in counts.after):
            stack = self._no_latents(x)  # the next token computes all latents anew
        empty = max(counts.after) - seen if counts.ragged else None
        # clone: a view would keep the whole piece in memory
        answer = last_slots(outputs, min(length, limit), seen if counts.ragged else None)
        carry.after = PerceiverARState(seen, empty, tokens[:, -limit:].clone(), inputs, stack, outputs)
        return answer

    def _run(
        self, windows: list[Window], counts: Counts, tokens: Tensor, inputs: tuple[LatentCache, ...], stack: StackState
    ) -> tuple[Tensor, StackState]:
        """One window per row through all layers: (B, W, D), row b ending before its ``stop``, and the latents so
        far."""
        starts, stops = [window.start for window in windows], [window.stop for window in windows]
        if all(window.start == window.first for window in windows):
            stack = self._no_latents(tokens)
        cached = _latent_width(stack)
        width = max(window.stop - window.start for window in windows)
        splice = counts.splice(starts, stops, older=cached, newer=width, width=max(window.stop - window.first for window in windows))
        over_input: Tensor | None = None
        over_latents: Tensor | None = None
        if counts.ragged:
            first, start, stop, _, after = torch.tensor([*zip(*windows, strict=True), counts.after], device=tokens.device)
            slots, held = slot_positions(stop, width), slot_positions(start, cached)
            positions = slots.masked_fill(slots < start[:, None], -1)
            held = held.masked_fill(held < first[:, None], -1)
            over_input = allowed_pairs(positions, slot_positions(after, inputs[0].keys.shape[2]))
            over_latents = allowed_pairs(positions, torch.cat((held, positions), dim=1))
            x = pack(tokens, (tokens.shape[1] - after[:, None] + slots).clamp_min(0))
        else:
            positions = torch.arange(starts[0], stops[0], device=tokens.device)
            inputs = tuple(cache.map(lambda tensor: tensor[:, :, : stops[0]]) for cache in inputs)
            later = counts.after[0] - stops[0]
            x = tokens.narrow(1, tokens.shape[1] - later - width, width)
        for layer, cache in zip(self.cross, inputs, strict=True):
            x = layer(x, None, positions=positions, places=None, allowed=over_input, cache=cache)
        return advance(self.stack, x, state=stack, positions=positions, allowed=over_latents, splice=splice)

    def _drop_prefix(self, x: Tensor, positions: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
        """What to attend to, and at which positions: everything, or in training the latents and a random choice of each
        row's real prefix.

        One draw serves all cross layers. The number of slots left is the same for all rows, so that shapes depend on
        shapes only.
        """
        parts = round(self.config.prefix_dropout * PARTS)
        if not self.training or parts == 0 or prefix == 0:
            return x, positions
        positions = positions.expand(x.shape[0], -1)
        places = positions[:, :prefix]
        count = (places >= 0).sum(dim=-1, keepdim=True)
        chance = torch.rand(places.shape, device=x.device).masked_fill(places < 0, 2.0)  # empty slots come last
        kept = chance.argsort(dim=-1).argsort(dim=-1) < count - count * parts // PARTS
        order = torch.argsort(kept.to(torch.uint8), dim=-1, stable=True)[:, prefix * parts // PARTS :]
        places = torch.where(kept, places, -1).gather(1, order)
        return torch.cat((pack(x[:, :prefix], order), x[:, prefix:]), dim=1), torch.cat((places, positions[:, prefix:]), dim=1)

    def _no_latents(self, like: Tensor) -> StackState:
        return part_with(self.stack, "init_state").init_state(like.shape[0], device=like.device, dtype=like.dtype)


def _blocks(config: PerceiverARConfig) -> Iterator[dict[str, Branch | None]]:
    for _ in range(config.depth):
        yield {
            "attention": make_branch(config, _attention(config), reads=("positions", "allowed", "splice")),
            "feed_forward": make_feed_forward(config),
        }


def _latent_width(stack: StackState) -> int:
    attention = stack.branches[0].layer
    return attention.keys.shape[2] if isinstance(attention, LatentCache) else 0


def _attention(config: PerceiverARConfig) -> LatentAttention:
    rotary = config.positions == "rotary"
    return LatentAttention(config.dim, heads=config.heads, head_dim=config.head_dim, rotary=rotary, dropout=config.attention_dropout)
