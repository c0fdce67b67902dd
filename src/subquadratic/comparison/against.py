"""Two comparisons of the same data, at the same length, side by side: other machines, versions or budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .observed import measured, scores, speeds, tried
from .results import Comparison
from .statistics import Estimate, estimate, unpaired

SAME_DATA = ("digest", "kind", "causal", "tokenizer")
INSIDE = ("options", "conditions", "packages")
ASIDE = (  # of settings
    "item_seconds", "default_rates", "examined", "speed_of",
    "out", "overwrite", "resume", "add_model", "against", "quiet", "json", "dry_run",
)  # fmt: skip
QUANTITIES = ("train_seconds", "train_bytes", "prefill_seconds", "token_seconds", "state_bytes")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One entry in both. `difference` is this comparison's mean less the other's, with Welch's interval at 95 % for all entries together:
    the runs of two comparisons have nothing in common."""

    name: str
    here: Estimate | None
    there: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """What one entry took here over what it took there, at one length; of times the medians of rounds."""

    name: str
    quantity: str
    length: int
    here: float
    there: float

    @property
    def ratio(self) -> float:
        return self.here / self.there


@dataclass(frozen=True, kw_only=True)
class Against:
    """`conditions` are what differs: (name, here, there)."""

    here: Comparison
    there: Comparison
    conditions: list[tuple[str, str, str]]
    sides: list[Side]
    ratios: list[Ratio]


def against(here: Comparison, there: Comparison) -> Against:
    """Put two comparisons side by side.

    Raises:
        ValueError: they cannot be compared: other data, another length or another unit.
    """
    for name in SAME_DATA:
        mine, other = here.data.get(name), there.data.get(name)
        if mine != other:
            what = "other data (their digests differ)" if name == "digest" else f"data of another {name}"
            raise ValueError(
                f"against: that comparison has {what}: {other!r}, and this one {mine!r}; "
                "only comparisons of the same data are set side by side"
            )
    for what, mine, other in (("length", here.settings.get("length"), there.settings.get("length")), ("unit", here.unit, there.unit)):
        if mine != other:
            raise ValueError(f"against: that comparison has another {what}: {other!r}, and this one {mine!r}; compare at the same {what}")
    return Against(here=here, there=there, conditions=_conditions(here, there), sides=_sides(here, there), ratios=_ratios(here, there))


def _sides(here: Comparison, there: Comparison) -> list[Side]:
    mine, other = scores(here), scores(there)
    common = len(set(mine) & set(other)) or 1
    found = []
    for name in dict.fromkeys([*mine, *other]):
        a, b = list(mine.get(name, {}).values()), list(other.get(name, {}).values())
        found.append(Side(name=name, here=estimate(a), there=estimate(b), difference=unpaired(a, b, tests=common)))
    return found


def _ratios(here: Comparison, there: Comparison) -> list[Ratio]:
    """At the longest length that both measured of each entry and quantity, and at the comparison's own."""
    found = []
    for quantity in QUANTITIES:
        for name in tried(here):
            mine = {speed.length: measured(speed, quantity) for speed in speeds(here, name)}
            other = {speed.length: measured(speed, quantity) for speed in speeds(there, name)}
            both = [length for length in mine if mine[length] and other.get(length)]
            for length in sorted({max(both), *(length for length in both if length == here.settings.get("length"))} if both else ()):
                a, b = mine[length], other[length]
                assert a is not None and b is not None
                found.append(Ratio(name=name, quantity=quantity, length=length, here=a, there=b))
    return found


def settings(comparison: Comparison) -> dict[str, Any]:
    """The settings that say what was compared and how, those inside others under their own names; not what was found on the way, nor where
    files went."""
    return {name: value for name, value in _flat(comparison.settings).items() if name not in ASIDE and value not in (None, "", {}, False)}


def _conditions(here: Comparison, there: Comparison) -> list[tuple[str, str, str]]:
    """Settings, machine and versions that differ, in the order in which they are kept."""
    found = []
    for mine, other in ((settings(here), settings(there)), (_flat(here.machine), _flat(there.machine))):
        for name in dict.fromkeys([*mine, *other]):
            a, b = mine.get(name), other.get(name)
            if a != b and name != "date":
                found.append((name, _word(a), _word(b)))
    for name in dict.fromkeys(entry.name for entry in [*here.entries, *there.entries]):
        a, b = ({entry.name: entry.parameters for entry in side.entries}.get(name) for side in (here, there))
        if a is not None and b is not None and a != b:
            found.append((f"parameters of {name}", f"{a:,}", f"{b:,}"))
    return found


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """With what is inside `options`, `conditions` and `packages` under its own names; what is resolved wins over what was asked."""
    inside = {name: value for holder in INSIDE for name, value in (values.get(holder) or {}).items()}
    return {**inside, **{name: value for name, value in values.items() if name not in INSIDE}}


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_word(inner)}" for name, inner in value.items())
    return "–" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
