"""What can be measured: a case, its sizes, and the names that it is made of. Nothing here needs torch.

A case has sides, which run interleaved in one process: first ours, then what it is compared with.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

BACK = "-bidirectional"
MODELS = (
    "performer", f"performer{BACK}", "linformer", f"linformer{BACK}", "fastformer", f"fastformer{BACK}",
    "feedback_transformer", "gated_linear", "perceiver_ar", "transformer", f"transformer{BACK}",
)  # fmt: skip
LAYERS = (
    "favor", f"favor{BACK}", "low-rank", f"low-rank{BACK}", "additive", f"additive{BACK}", "gated-linear", "softmax", f"softmax{BACK}",
)  # fmt: skip
WINDOWS = {"window-attention": 256, "window-attention-64": 64}  # W
OPS = ("favor", f"favor{BACK}", "gated-linear-attention", "slot-attention", "prefix-softmax", *WINDOWS, "softmax-attention")
STREAMING_OPS = ("favor", "gated-linear-attention", "slot-attention", "prefix-softmax")
KINDS = {"op": OPS, "layer": LAYERS, "model": MODELS}
MODES = {
    "forward": "a whole sequence, without gradients",
    "train": "forward and backward of the loss, or of a sum of the output",
    "prefill": "a whole sequence into a state",
    "decode": "one more token after that many",
    "extend": "the same given, not chosen: `extend` by one token",
}
STREAMED = ("decode", "extend")
PUBLISHED = {
    "performer": "performer-pytorch",
    f"performer{BACK}": "performer-pytorch",
    f"linformer{BACK}": "linformer",
    f"fastformer{BACK}": "fast-transformer-pytorch",
    "feedback_transformer": "feedback-transformer-pytorch",
    "perceiver_ar": "perceiver-ar-pytorch",
}
AGAINST = ("published", "x-transformers", "exact", "sdpa", "fla", "self", "unpadded", "int8")
"""What `--against` knows: the published package of a model, x-transformers with flash attention, our own exact Transformer, PyTorch's
attention kernel, flash-linear-attention (on a GPU), the side itself after fewer tokens, where rows are padded the side itself on as many
tokens in rows of equal lengths, and the side itself with weights in 8 bits."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of every model measured.

    Raises:
        ValueError: heads that do not divide dim into even widths, or a number below 1.
    """

    dim: int = 256
    depth: int = 4
    heads: int = 4
    vocabulary: int = 256
    slots: int = 256
    memories: int = 256

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            if getattr(self, each.name) < 1:
                raise ValueError(f"{each.name} must be at least 1, got {getattr(self, each.name)}")
        if self.dim % self.heads or self.width % 2:
            raise ValueError(f"dim must be a multiple of heads, with an even quotient, got dim={self.dim} and heads={self.heads}")

    @property
    def width(self) -> int:
        """K, of a head."""
        return self.dim // self.heads

    @property
    def features(self) -> int:
        """M = floor(K ln K), as the Performer paper suggests: 266 for K = 64."""
        return max(1, int(self.width * math.log(self.width)))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure: `sides[0]`, and what runs beside it."""

    name: str
    kind: str
    mode: str
    sides: tuple[str, ...]
    length: int
    batch: int = 1
    row_lengths: tuple[int, ...] = ()
    """Real tokens of each row, padded on the right to `length`; empty: there is no padding."""
    latents: int | None = None
    """Of a Perceiver AR; None: a quarter of the length."""
    sizes: Sizes = field(default_factory=Sizes)
    rounds: int = 7
    least: int = 3
    """Rounds that are run even if they take longer than `budget`."""
    budget: float = 20.0
    """Seconds after which no further round begins."""
    cap: float = 60.0
    """A side whose call takes longer is left out."""
    memory: bool = True

    @property
    def real_tokens(self) -> int:
        return sum(self.row_lengths) if self.row_lengths else self.batch * self.length

    @property
    def latent_count(self) -> int:
        return max(1, self.length // 4) if self.latents is None else min(self.latents, self.length)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "sides": list(self.sides), "row_lengths": list(self.row_lengths)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Case:
        rows = tuple(values.get("row_lengths", ()))
        return cls(**{**values, "sides": tuple(values["sides"]), "row_lengths": rows, "sizes": Sizes(**values["sizes"])})


def again(side: str, case: Case) -> Case | None:
    """The case in which the first side stands beside itself: after fewer tokens (`self@N`), or on as many in rows of equal lengths without
    padding (`unpadded`); None for another side. The model is the very same."""
    if side.startswith("self@"):
        return dataclasses.replace(case, length=int(side[5:]))
    if side == "unpadded":
        return dataclasses.replace(case, length=case.real_tokens // case.batch, row_lengths=(), latents=case.latent_count)
    return None


def label(side: str, case: Case) -> str:
    """A side as people know it: the published package by its name."""
    if side == "published":
        return PUBLISHED.get(case.sides[0], "published")
    if side.startswith("self@"):
        return f"{case.sides[0]} after {int(side[5:]):,}" if case.mode in STREAMED else f"{case.sides[0]}, {int(side[5:]):,} tokens"
    if side == "unpadded":
        return f"{case.sides[0]}, unpadded"
    if side == "int8":
        return f"{case.sides[0]}, int8"
    return "exact attention (ours)" if side == "exact" else side


def is_ours(side: str) -> bool:
    """Whether a side is code of this package, which has a floor."""
    return side == "exact" or not any(side == name or side.startswith(f"{name}@") for name in AGAINST)


def modes(kind: str, subject: str) -> tuple[str, ...]:
    """The modes that a subject has: what looks both ways cannot stream."""
    streams = subject in STREAMING_OPS if kind == "op" else not subject.endswith(BACK)
    if not streams:
        return ("forward", "train")
    if kind == "op":
        return ("forward", "train", "decode")
    return tuple(mode for mode in MODES if kind == "model" or mode != "extend")  # a layer decodes by it
