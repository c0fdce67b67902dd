"""What can be measured: cases by name, and the suites that they are gathered in. Nothing here needs torch.

A case has sides, which run interleaved in one process: first ours, then what it is compared with.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import math
import re
from collections.abc import Iterable, Sequence
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
OPS = ("favor", f"favor{BACK}", "gated-linear-attention", "slot-attention", "prefix-softmax", "window-attention", "softmax-attention")
STREAMING_OPS = ("favor", "gated-linear-attention", "slot-attention", "prefix-softmax")
KINDS = {"op": OPS, "layer": LAYERS, "model": MODELS}
MODES = {
    "forward": "a whole sequence, without gradients",
    "train": "forward and backward of the loss, or of a sum of the output",
    "prefill": "a whole sequence into a state",
    "decode": "one more token after that many",
}
PUBLISHED = {
    "performer": "performer-pytorch",
    f"performer{BACK}": "performer-pytorch",
    f"linformer{BACK}": "linformer",
    f"fastformer{BACK}": "fast-transformer-pytorch",
    "feedback_transformer": "feedback-transformer-pytorch",
    "perceiver_ar": "perceiver-ar-pytorch",
}
AGAINST = ("published", "x-transformers", "exact", "sdpa", "fla", "self")
"""What `--against` knows: the published package of a model, x-transformers with flash attention, our own exact Transformer, PyTorch's
attention kernel, flash-linear-attention (on a GPU), and the side itself after fewer tokens."""
SUITES = ("quick", "targets", "lengths", "full")
LENGTHS = (1024, 4096)  # of the cases that belong to no suite
LONG = 16_384  # where the targets meet exact attention
_LONG_CAUSAL = f"model/performer/train/{LONG}"
ALONG = tuple(1024 * 2**power for power in range(7))
CONTEXTS = (100, 1_000, 10_000, 30_000, 100_000)
MILLION, BESIDE_MILLION = 1_048_576, 65_536


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
    def latent_count(self) -> int:
        return max(1, self.length // 4) if self.latents is None else min(self.latents, self.length)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "sides": list(self.sides)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Case:
        return cls(**{**values, "sides": tuple(values["sides"]), "sizes": Sizes(**values["sizes"])})


def label(side: str, case: Case) -> str:
    """A side as people know it: the published package by its name."""
    if side == "published":
        return PUBLISHED.get(case.sides[0], "published")
    if side.startswith("self@"):
        return f"{case.sides[0]} after {int(side[5:]):,}" if case.mode == "decode" else f"{case.sides[0]}, {int(side[5:]):,} tokens"
    return "exact attention (ours)" if side == "exact" else side


def is_ours(side: str) -> bool:
    """Whether a side is code of this package, which has a floor."""
    return side == "exact" or not any(side == name or side.startswith(f"{name}@") for name in AGAINST)


def suite(name: str, *, sizes: Sizes | None = None, lengths: Sequence[int] | None = None, cuda: bool = False) -> list[Case]:
    """The cases of a suite, in the order in which they are run.

    Args:
        name: one of `SUITES`.
        sizes: of the models; None: 256 wide, 4 deep, 4 heads.
        lengths: instead of the suite's own, for "quick" and "lengths"; the others have theirs in their names.
        cuda: with the cases that only a GPU is asked for.

    Raises:
        ValueError: an unknown suite.
    """
    sizes = sizes or Sizes()
    if name == "quick":
        return _quick(sizes, lengths or (1024,))
    if name == "targets":
        return _targets(sizes, cuda)
    if name == "lengths":
        return _lengths(sizes, lengths)
    if name == "full":
        told = f"lengths/train/{LONG}"  # has the causal models beside exact attention too
        along = _lengths(sizes, lengths)
        targets = [case for case in _targets(sizes, cuda) if case.name != _LONG_CAUSAL or told not in {case.name for case in along}]
        return [*targets, *along, _million(sizes)]
    raise ValueError(f"suite must be one of {', '.join(SUITES)}, got {name!r}{_near(name, SUITES)}")


def registry(*, sizes: Sizes | None = None, lengths: Sequence[int] | None = None, cuda: bool = False) -> dict[str, Case]:
    """Every case there is, by name: those of the suites, and every subject in every mode at `lengths`."""
    sizes = sizes or Sizes()
    found = [case for name in ("quick", "full") for case in suite(name, sizes=sizes, lengths=lengths, cuda=cuda)]
    for kind, subjects in KINDS.items():
        for subject in subjects:
            for mode in modes(kind, subject):
                found += [_case(kind, subject, mode, length, sizes=sizes) for length in lengths or LENGTHS]
    cases: dict[str, Case] = {}
    for case in found:  # a suite knows more about a case than its name says
        cases.setdefault(case.name, case)
    return cases


def select(patterns: Iterable[str], cases: dict[str, Case]) -> list[Case]:
    """The cases whose names match a pattern such as `model/*/train/4096`, and those spelled out with a length of their own.

    Raises:
        ValueError: a pattern that matches nothing, with the nearest name.
    """
    chosen: dict[str, Case] = {}
    sizes = next(iter(cases.values())).sizes
    for pattern in patterns:
        matching = {name: cases[name] for name in fnmatch.filter(cases, pattern)} or _spelled(pattern, sizes)
        if not matching:
            raise ValueError(f"cases: there is no case {pattern!r}{_near(pattern, cases)}; --list shows all")
        chosen.update(matching)
    return list(chosen.values())


def only_against(case: Case, against: Sequence[str]) -> Case:
    """The case with the competitors named, of those it has; its own sides stay.

    Raises:
        ValueError: an unknown competitor, with the nearest name.
    """
    for name in against:
        if name not in AGAINST:
            raise ValueError(f"against must be none, all, or some of {', '.join(AGAINST)}, got {name!r}{_near(name, AGAINST)}")
    kept = [side for side in case.sides[1:] if side.partition("@")[0] in against or (is_ours(side) and side != "exact")]
    return dataclasses.replace(case, sides=(case.sides[0], *kept))


def modes(kind: str, subject: str) -> tuple[str, ...]:
    """The modes that a subject has: what looks both ways cannot stream."""
    streams = subject in STREAMING_OPS if kind == "op" else not subject.endswith(BACK)
    return ("forward", "train", "prefill", "decode") if streams and kind != "op" else ("forward", "train", *("decode",) * streams)


def _case(kind: str, subject: str, mode: str, length: int, *, batch: int = 1, sides: Sequence[str] | None = None, **rest: Any) -> Case:
    name = f"{kind}/{subject}/{mode}/{length}" + (f"x{batch}" if batch > 1 else "")
    sides = _usual_sides(kind, subject, mode) if sides is None else sides
    return Case(name=name, kind=kind, mode=mode, length=length, batch=batch, sides=(subject, *sides), **rest)


def _usual_sides(kind: str, subject: str, mode: str) -> tuple[str, ...]:
    if kind == "op":
        return () if mode == "decode" or subject == "softmax-attention" else ("sdpa", *("fla",) * (subject == "favor"))
    if subject.startswith(("transformer", "softmax")):
        return ("x-transformers",) if kind == "model" and mode in ("forward", "train") else ()
    if kind == "model" and mode in ("forward", "train"):
        return (*("published",) * (subject in PUBLISHED), "x-transformers", "exact")
    return ("exact",)


def _quick(sizes: Sizes, lengths: Sequence[int]) -> list[Case]:
    short: dict[str, Any] = {"sizes": sizes, "rounds": 5, "budget": 5.0}
    found = []
    for length in lengths:
        found.append(_case("model", "performer", "train", length, sides=("published", "x-transformers"), **short))
        for subject in (*(name for name in PUBLISHED if name.endswith(BACK)), "perceiver_ar"):
            found.append(_case("model", subject, "train", length, sides=("published",), **short))
        found += [_case("model", name, "train", length, sides=("exact",), **short) for name in ("linformer", "fastformer")]
        found += [_case("model", name, "decode", length, **short, memory=False) for name in ("performer", "fastformer")]
        found.append(_case("op", "favor", "train", length, **short, memory=False))
        found.append(_case("layer", "favor", "forward", length, **short, memory=False))
    return [*found, _case("model", "feedback_transformer", "train", 64, sides=("published",), **short)]


def _targets(sizes: Sizes, cuda: bool) -> list[Case]:
    both = [f"linformer{BACK}", f"performer{BACK}", f"fastformer{BACK}", "perceiver_ar"]
    found = [
        import_case(),
        _case("model", "performer", "train", 2048, sides=("published",), sizes=sizes),
        _case("model", "performer", "decode", 2048, sides=("published",), sizes=sizes),
        *(_case("model", name, "train", 4096, sides=("published",), sizes=sizes, rounds=9) for name in both),
        _case("model", "feedback_transformer", "train", 256, sides=("published",), sizes=sizes),
        _case("model", "feedback_transformer", "train", 256, batch=8, sides=("published",), sizes=sizes),
        *(
            _case("model", name, "decode", 100_000, sides=("self@100",), sizes=sizes, rounds=25, memory=False)
            for name in ("performer", "linformer", "fastformer")
        ),
        _case("model", "performer", "train", LONG, sides=("x-transformers",), sizes=sizes, budget=45.0),
        _case("model", f"linformer{BACK}", "train", LONG, sides=(f"fastformer{BACK}", "x-transformers"), sizes=sizes, budget=45.0),
    ]
    return [*found, _case("op", "favor", "train", LONG, sides=("sdpa", "fla"), sizes=sizes)] if cuda else found


def _lengths(sizes: Sizes, lengths: Sequence[int] | None) -> list[Case]:
    models = ("performer", "linformer", "fastformer", "gated_linear", "perceiver_ar", "feedback_transformer", "transformer")
    found = [
        Case(
            name=f"lengths/train/{length}", kind="model", mode="train", length=length, latents=1024,
            sides=(*models, "x-transformers"), sizes=sizes, rounds=5, budget=30.0, least=2 if length >= 8192 else 3,
        )
        for length in lengths or ALONG
    ]  # fmt: skip
    streaming = ("performer", "linformer", "fastformer", "transformer")
    found += [
        Case(name=f"lengths/decode/{length}", kind="model", mode="decode", length=length, sides=streaming, sizes=sizes, memory=False)
        for length in lengths or CONTEXTS
    ]
    return found


def _million(sizes: Sizes) -> Case:
    return Case(
        name=f"million/performer/train/{MILLION}", kind="million", mode="train", length=MILLION, sizes=sizes,
        sides=("performer", f"self@{BESIDE_MILLION}"), cap=1800.0,
    )  # fmt: skip


def import_case() -> Case:
    """How long `import subquadratic` takes beyond `import torch`, and how long its models take on top."""
    return Case(
        name="import/subquadratic", kind="import", mode="import", length=0, sides=("subquadratic", "models"), rounds=7, memory=False
    )


def _spelled(name: str, sizes: Sizes) -> dict[str, Case]:
    """A case that is in no list, such as `model/performer/train/300x2`; nothing if that is no name of a case."""
    found = re.fullmatch(r"(\w+)/([\w-]+)/(\w+)/([1-9]\d*)(?:x([1-9]\d*))?", name)
    if found is None or found[2] not in KINDS.get(found[1], ()) or found[3] not in modes(found[1], found[2]):
        return {}
    case = _case(found[1], found[2], found[3], int(found[4]), batch=int(found[5] or 1), sizes=sizes)
    return {case.name: case}


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
