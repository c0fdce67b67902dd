"""What a case must cost at the least: the matmuls of our algorithm over the machine's best matmul rate, or the bytes that must be moved
over its copy bandwidth, whichever takes longer.

Only multiply-adds of matmuls count, two operations each. Elementwise work, norms, softmax, positions and sums do not, nor does
anything that an implementation computes twice to save memory: no implementation reaches such a floor, and a share of it cannot be
flattered.
A training step is three times its forward pass, less the gradients that nobody needs (of the random projections).

With T = batch x length tokens, D width, I = H K inner width, F = 4 D feed-forward width, M features, R slots, V vocabulary:

| part                        | forward FLOP                                                                              |
|-----------------------------|-------------------------------------------------------------------------------------------|
| feed-forward                | 4 T D F; gated (Feedback Transformer): 6 T D F                                            |
| output map                  | 2 T D V (prefill: of the last token only)                                                 |
| FAVOR+                      | 8 T I M: features of q and k, into the sums, out of them; 8 T D I for the maps            |
| slots, causal               | 8 T I R: E k and F v into the slots, scores, mixture; 8 T D I for the maps                |
| slots, bidirectional        | 4 T D R (E x, F x) + 4 T I R (scores, mixture) + 4 B R D I (their maps) + 4 T D I (q, out)|
| additive                    | 4 T I H (logits) + 4 T I (two means); maps 4 T D I (q, k) + 2 T I I + 2 T D I             |
| softmax                     | 4 I P with P pairs of query and key, N (N + 1) / 2 causal, N N bidirectional; maps 8 T D I|
| cross-attention of latents  | 4 I P, P = l (N - l) + l (l + 1) / 2; maps 4 B N D I (k, v) + 4 B l D I (q, out)          |
| feedback, a layer           | 4 I P, P = sum over t of min(t, memories); maps 4 T D I (q, out)                          |
| feedback, once              | 4 T D I (keys and values of the memory) + 2 T D (L + 1) (mixing the layers)               |
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .cases import BACK, STREAMED, WINDOWS, Case, Sizes, again
from .machine import Rates

NUMBER = 4  # bytes of a float32
DECAY_RANK = 16  # of gated linear attention, its default


@dataclass(frozen=True, kw_only=True)
class Work:
    """Matmul FLOP of a forward pass, and those of them that have a constant factor, whose gradient nobody needs."""

    flops: float
    constant: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(flops=self.flops + other.flops, constant=self.constant + other.constant)

    def times(self, count: float) -> Work:
        return Work(flops=count * self.flops, constant=count * self.constant)

    @property
    def training(self) -> float:
        return 3 * self.flops - self.constant


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The least of one call."""

    flops: float
    bytes: float

    def seconds(self, rates: Rates) -> float:
        return max(self.flops / rates.flops, self.bytes / rates.copy)


def floor_of(side: str, case: Case, *, parameter_bytes: int, state_bytes: int = 0, number: int = NUMBER, tokens: int = 1) -> Floor | None:
    """The floor of one call of one of our sides; None where there is no formula.

    Args:
        side: one of ours, or "exact".
        parameter_bytes: of the weights, which are read once (in a training step twice, and their gradients written).
        state_bytes: what a decoded token reads and writes.
        number: bytes of a number in the activations.
        tokens: decoded in one call.
    """
    name = _name(side, case)
    if case.kind == "default" or (case.mode in STREAMED and name == "perceiver_ar"):
        return None  # it has sizes of its own; what it does depends on how full its latents are
    length = 1 if case.mode in STREAMED else case.length
    work = _of_rows(name, case) if case.row_lengths else work_of(name, case, length=length)
    if case.mode in STREAMED:
        moved = parameter_bytes + (1 if "transformer" in name else 2) * state_bytes
        return Floor(flops=work.flops * tokens, bytes=float(moved * tokens))
    stream = number * case.real_tokens * case.sizes.dim
    if case.kind == "op":  # q, k, v read and y written; backward reads them and dy, and writes dq, dk, dv
        forward, training = 4 * stream, 11 * stream
    else:  # the residual stream into a block and out of it; backward its gradient too, and the stream once more
        blocks = 2 * case.sizes.depth if case.kind != "layer" else 1
        forward, training = parameter_bytes + 2 * blocks * stream, 3 * parameter_bytes + 6 * blocks * stream
    train = case.mode == "train"
    return Floor(flops=work.training if train else work.flops, bytes=float(training if train else forward))


def _of_rows(name: str, case: Case) -> Work:
    """Of the real tokens alone; the latents are those of the longest row."""
    work = Work(flops=0.0)
    for length in case.row_lengths:
        row = dataclasses.replace(case, batch=1, length=length, latents=case.latent_count, row_lengths=())
        work += work_of(name, row, length=length)
    return work


def work_of(name: str, case: Case, *, length: int) -> Work:
    """The forward matmuls of a subject over `length` tokens; in decode mode of the token after `case.length` others."""
    if case.kind == "op":
        return _op(name, case, length)
    if case.kind == "layer":
        return _mixer(_LAYER_OF.get(name.removesuffix(BACK), name.removesuffix(BACK)), case, length, both=name.endswith(BACK))
    sizes, batch = case.sizes, case.batch
    plain, both = name.removesuffix(BACK), name.endswith(BACK)
    tokens = batch * length
    if plain == "perceiver_ar":
        latents = min(case.latent_count, length)
        cross = _cross(sizes, batch, length, latents) + _feed_forward(sizes, batch * latents)
        layer = _softmax(sizes, batch, latents, _triangle(latents)) + _feed_forward(sizes, batch * latents)
        return cross + layer.times(sizes.depth) + _output(sizes, batch * (1 if case.mode == "prefill" else latents))
    layer = _mixer(plain, case, length, both=both) + _feed_forward(sizes, tokens, gated=plain == "feedback_transformer")
    work = layer.times(sizes.depth) + _output(sizes, batch if case.mode == "prefill" else tokens)
    if plain == "feedback_transformer":
        work += Work(flops=tokens * (4 * sizes.dim**2 + 2 * sizes.dim * (sizes.depth + 1)))
    return work


_LAYER_OF = {
    "favor": "performer", "low-rank": "linformer", "additive": "fastformer", "gated-linear": "gated_linear", "softmax": "transformer",
}  # fmt: skip


def _name(side: str, case: Case) -> str:
    if again(side, case) is not None:
        side = case.sides[0]
    if side != "exact":
        return side
    both = BACK if case.sides[0].endswith(BACK) else ""
    return ("softmax" if case.kind == "layer" else "transformer") + both


def _mixer(plain: str, case: Case, length: int, *, both: bool) -> Work:
    """Attention of one layer with its maps."""
    sizes, batch = case.sizes, case.batch
    tokens, inner = batch * length, sizes.dim
    maps = 8 * tokens * sizes.dim * inner
    if plain == "performer":
        return Work(flops=maps) + _favor(sizes, tokens)
    if plain == "linformer" and both:
        sums, read = 4 * tokens * sizes.dim * sizes.slots, 4 * tokens * inner * sizes.slots
        return Work(flops=maps / 2 + sums + read + 4 * batch * sizes.slots * sizes.dim * inner)
    if plain == "linformer":
        return Work(flops=maps + 8 * tokens * inner * sizes.slots)
    if plain == "fastformer":
        return Work(flops=maps + 4 * tokens * inner * sizes.heads + 4 * tokens * inner)  # q, k, W_u and out: v is q
    if plain == "gated_linear":  # queries and keys of half the width; values, gate, output and the two maps of the decays
        return Work(flops=maps + 2 * tokens * DECAY_RANK * (sizes.dim + inner // 2)) + _fading(sizes, tokens)
    if plain == "transformer":
        return _softmax(sizes, batch, length, _pairs(case, length, both=both))
    if plain == "feedback_transformer":
        memories = sizes.memories
        pairs = min(case.length, memories) if case.mode in STREAMED else _climb(length, memories)
        return Work(flops=maps / 2 + 4 * inner * batch * pairs)
    raise ValueError(f"no formula for {plain!r}")


def _op(name: str, case: Case, length: int) -> Work:
    sizes, tokens = case.sizes, case.batch * length
    plain, both = name.removesuffix(BACK), name.endswith(BACK)
    if plain == "favor":
        return _favor(sizes, tokens)
    if plain == "gated-linear-attention":
        return _fading(sizes, tokens)
    if plain == "slot-attention":
        return Work(flops=8 * tokens * sizes.dim * sizes.slots)
    if plain == "prefix-softmax":
        return Work(flops=2 * tokens * sizes.dim)
    if plain in WINDOWS:  # what a position may see: its block and the one before
        window = WINDOWS[plain]
        pairs = sum(min(position % window + 1 + window * (position >= window), position + 1) for position in range(length))
        return Work(flops=4 * sizes.dim * case.batch * pairs)
    if plain in ("softmax-attention", "transformer"):
        return Work(flops=4 * sizes.dim * case.batch * _pairs(case, length, both=both))
    raise ValueError(f"no formula for {plain!r}")


def _favor(sizes: Sizes, tokens: int) -> Work:
    one = 2 * tokens * sizes.dim * sizes.features
    return Work(flops=4 * one, constant=2 * one)


def _fading(sizes: Sizes, tokens: int) -> Work:
    """A product of key and value into the sum, K = V / 2, and one of query and sum, at each position."""
    return Work(flops=2 * tokens * sizes.dim * sizes.dim // sizes.heads)


def _softmax(sizes: Sizes, batch: int, length: int, pairs: int) -> Work:
    return Work(flops=8 * batch * length * sizes.dim**2 + 4 * sizes.dim * batch * pairs)


def _cross(sizes: Sizes, batch: int, length: int, latents: int) -> Work:
    pairs = latents * (length - latents) + _triangle(latents)
    return Work(flops=4 * batch * (length + latents) * sizes.dim**2 + 4 * sizes.dim * batch * pairs)


def _feed_forward(sizes: Sizes, tokens: int, *, gated: bool = False) -> Work:
    return Work(flops=(6 if gated else 4) * tokens * sizes.dim * 4 * sizes.dim)


def _output(sizes: Sizes, tokens: int) -> Work:
    return Work(flops=2 * tokens * sizes.dim * sizes.vocabulary)


def _pairs(case: Case, length: int, *, both: bool) -> int:
    if case.mode in STREAMED:
        return case.length + 1
    return length**2 if both else _triangle(length)


def _triangle(length: int) -> int:
    return length * (length + 1) // 2


def _climb(length: int, limit: int) -> int:
    """Sum over t = 0 .. length - 1 of min(t, limit)."""
    rising = min(length, limit + 1)
    return rising * (rising - 1) // 2 + (length - rising) * limit
