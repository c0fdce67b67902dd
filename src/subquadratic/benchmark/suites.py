"""The suites that cases are gathered in, and cases chosen by name. Nothing here needs torch."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Any

from .cases import AGAINST, BACK, KINDS, MODELS, PUBLISHED, STREAMED, WINDOWS, Case, Sizes, is_ours, modes

SUITES = ("quick", "everyday", "targets", "lengths", "full")
LENGTHS = (1024, 4096)  # of the cases that belong to no suite
LONG = 16_384  # where the targets meet exact attention
_LONG_CAUSAL = f"model/performer/train/{LONG}"
ALONG = tuple(1024 * 2**power for power in range(7))
CONTEXTS = (100, 1_000, 10_000, 30_000, 100_000)
MILLION, BESIDE_MILLION = 1_048_576, 65_536

# The suite everyday: batches of rows of unequal lengths, short and long batches, decoding.
EVERYDAY_LENGTHS = (2048, 4096)
UNEQUAL, UNEQUAL_OF = (1024, 267, 2030, 711, 1502, 893, 1777, 454), 2048  # real tokens of the rows of a padded batch, 53 % of the places
DECODED = (1, 32, 128)  # sequences
GROWING = ("performer", "linformer", "fastformer", "gated_linear", "transformer")
BATCHES, WIDTHS, DOCUMENTS = (1, 2, 4, 8, 16), (64, 128, 256, 512), (1, 2, 4, 8, 16, 32)
WIDE, WIDE_DECODED = Sizes(dim=1024, depth=12, heads=16), (1, 8)  # where a new token is the time of reading the weights
DOCUMENT_TOKENS = 8192  # in all documents together
CROSSOVER = (256, 512, 1024, 2048, 4096)  # lengths of 8 sequences, all full or as unequal as above

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
    if name == "everyday":
        return _everyday(sizes)
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
    found = [case for name in ("quick", "full", "everyday") for case in suite(name, sizes=sizes, lengths=lengths, cuda=cuda)]
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


def _case(kind: str, subject: str, mode: str, length: int, *, batch: int = 1, sides: Sequence[str] | None = None, **rest: Any) -> Case:
    name = f"{kind}/{subject}/{mode}/{length}" + (f"x{batch}" if batch > 1 else "")
    sides = _usual_sides(kind, subject, mode) if sides is None else sides
    return Case(name=name, kind=kind, mode=mode, length=length, batch=batch, sides=(subject, *sides), **rest)


def _usual_sides(kind: str, subject: str, mode: str) -> tuple[str, ...]:
    if kind == "op":
        return () if mode in STREAMED or subject == "softmax-attention" else ("sdpa", *("fla",) * (subject == "favor"))
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


def _everyday(sizes: Sizes) -> list[Case]:
    own: dict[str, Any] = {"sizes": sizes, "memory": False, "rounds": 5}
    found = [_default(name, **own) for name in MODELS if not name.endswith(BACK)]
    found += [_padded(name, UNEQUAL_OF, against=("unpadded", "exact"), **own) for name in MODELS if name != "feedback_transformer"]
    for length in EVERYDAY_LENGTHS:
        names = [name for name in MODELS if name != "feedback_transformer"]
        found += [_case("model", name, "train", length, sides=() if "transformer" in name else ("exact",), **own) for name in names]
    found += [_case("op", name, "train", 4096, **own) for name in WINDOWS]
    for mode in STREAMED:
        found += [_case("model", "performer", mode, 64, batch=batch, sides=("exact",), **own) for batch in DECODED]
    return [*found, *_wide(**own | {"sizes": WIDE}), *_growth(**own), *_crossover(**own)]


def _wide(**rest: Any) -> list[Case]:
    cases = (_case("model", "performer", "decode", 64, batch=batch, sides=("int8",), **rest) for batch in WIDE_DECODED)
    return [dataclasses.replace(case, name=case.name.replace("model", "wide", 1)) for case in cases]


def _default(name: str, **rest: Any) -> Case:
    """The model, the batch and the precision that `subq train` has by default, whatever the sizes of the others."""
    from ..training.defaults import DEFAULTS

    defaults = DEFAULTS[name]
    shape: dict[str, Any] = {"length": defaults.context, "batch": defaults.batch_size}
    return Case(name=f"default/{name}/train", kind="default", mode="train", sides=(name,), **shape, **rest)


def _padded(name: str, length: int, *, against: Sequence[str], **rest: Any) -> Case:
    sides = tuple(side for side in against if side != "exact" or not name.startswith("transformer"))  # which is that itself
    rows = tuple(row * length // UNEQUAL_OF for row in UNEQUAL)
    return Case(
        name=f"padded/{name}/train/{length}x{len(rows)}", kind="model", mode="train", length=length, batch=len(rows), row_lengths=rows,
        sides=(name, *sides), **rest,
    )  # fmt: skip


def _growth(*, sizes: Sizes, **rest: Any) -> list[Case]:
    """How a training step grows with the batch, with the width, and with the number of documents that its tokens are divided into."""

    def case(name: str, length: int, batch: int, own: Sizes) -> Case:
        return Case(name=name, kind="model", mode="train", length=length, batch=batch, sizes=own, sides=GROWING, **rest)

    widths = [width for width in WIDTHS if width % (2 * sizes.heads) == 0]
    return [
        *(case(f"batches/train/512x{batch}", 512, batch, sizes) for batch in BATCHES),
        *(case(f"widths/train/{width}", 1024, 1, dataclasses.replace(sizes, dim=width)) for width in widths),
        *(case(f"documents/train/{count}", DOCUMENT_TOKENS // count, count, sizes) for count in DOCUMENTS),
    ]


def _crossover(**rest: Any) -> list[Case]:
    """From which length on each model is faster than exact attention, at 8 sequences; at one, the suite lengths tells."""
    full = [
        Case(name=f"crossover/train/{length}x8", kind="model", mode="train", length=length, batch=8, sides=GROWING, **rest)
        for length in CROSSOVER
    ]
    padded = (_padded(GROWING[0], length, against=GROWING[1:], **rest) for length in CROSSOVER)
    return [*full, *(dataclasses.replace(case, name=f"crossover/padded/{case.length}x8") for case in padded)]


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
