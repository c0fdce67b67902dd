"""Two comparisons of the same data, at the same length, side by side: other machines, versions or budgets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .findings.fairness import scored_rows
from .observed import measured, scored, scores, speeds, tried
from .results import Comparison
from .statistics import Estimate, estimate, unpaired

SAME_DATA = ("digest", "kind", "causal", "tokenizer")
INSIDE = ("options", "conditions", "packages")
SHOWN = {  # settings that say what was compared and how, in words; what was found on the way, and where files went, is left out
    "equal": "equal for all", "run_seconds": "training of a run, s", "run_tokens": "training tokens of a run",
    "run_flops": "training FLOPs of a run", "run_steps": "steps of a run", "budget": "time for all of it", "parameters": "parameters",
    "seeds": "seeds", "rates": "learning rates tried",
    "rate_seconds": "training of a rate's trial, s", "rate_steps": "steps of a rate's trial", "length": "length, tokens",
    "batch_size": "batch", "tokens_per_step": "tokens in a step", "items": "validation rows or windows",
    "validation_tokens": "validation tokens",
    "sample_items": "of these while training", "longest": "speed measured up to, tokens", "speed_seconds": "time for speeds, s",
    "threads": "threads", "models": "models", "model": "own models", "data": "data", "validation_data": "validation data", "task": "task",
    "causal": "causal", "tokenizer": "tokenizer", "text": "column of texts", "label": "column of labels", "target": "column of targets",
}  # fmt: skip
QUANTITIES = ("train_seconds", "train_bytes", "prefill_seconds", "token_seconds", "state_bytes")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One entry in both. `difference` is this comparison's mean less the other's, with Welch's interval at 95 % for all entries together:
    the runs of two comparisons have nothing in common. None where scores are of different rows."""

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
    notes: list[str] = field(default_factory=list)
    """Why there are no differences, where there are none."""


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
    apart = _apart(here, there)
    sides = _sides(here, there, same_rows=apart is None)
    notes = [] if apart is None else [apart]
    return Against(here=here, there=there, conditions=_conditions(here, there), sides=sides, ratios=_ratios(here, there), notes=notes)


def _apart(here: Comparison, there: Comparison) -> str | None:
    """That scores are of different parts of the validation data, which says nothing of the models: None where they are of the same. As many
    rows of the same data are the same rows."""
    mine, other = (scored_rows(side) for side in (here, there))
    if (mine, other) == (None, None):
        mine, other = (_counts(side) for side in (here, there))
    if mine == other:
        return None
    return (
        f"Scores here are of {mine or 'an unknown part of the validation data'}, there of {other or 'an unknown part of them'}: a "
        "difference would be that of the rows as well, and is left out."
    )


def _counts(comparison: Comparison) -> str | None:
    found = sorted({trial.predicted for trial in comparison.trials if scored(trial) and trial.predicted})
    return None if not found else f"{found[0]:,}{f' to {found[-1]:,}' if len(found) > 1 else ''} predictions"


def _sides(here: Comparison, there: Comparison, *, same_rows: bool) -> list[Side]:
    mine, other = scores(here), scores(there)
    common = len(set(mine) & set(other)) or 1
    found = []
    for name in dict.fromkeys([*mine, *other]):
        a, b = list(mine.get(name, {}).values()), list(other.get(name, {}).values())
        difference = unpaired(a, b, tests=common) if same_rows else None
        found.append(Side(name=name, here=estimate(a), there=estimate(b), difference=difference))
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
    """The settings that say what was compared and how, by the words for them."""
    values = _flat(comparison.settings)
    if values.get("validation_tokens") == 0:  # all of them
        del values["validation_tokens"]
    return {words: _alike(values[name]) for name, words in SHOWN.items() if values.get(name) not in (None, "", {}, False)}


def _alike(value: Any) -> Any:
    """One number for what all entries have alike."""
    return next(iter(value.values())) if isinstance(value, dict) and len(set(map(str, value.values()))) == 1 else value


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
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_word(inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
