"""What was measured, as it is kept: a file results.json that is whole after every case, and goes on where it ended."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.plain_json import load_results
from .cases import Case, label
from .timing import median, ratios

FORMAT = 1
NAME = "results.json"


@dataclass(kw_only=True)
class Side:
    """One side of a case. `note` says why something is missing; the floor is that of one call."""

    name: str
    seconds: list[float] = field(default_factory=list)
    """Of one call, a number per round."""
    tokens: int = 0
    parameter_bytes: int = 0
    state_bytes: int = 0
    above_bytes: int | None = None
    """Peak memory above the weights."""
    peak_bytes: int | None = None
    """The peak itself."""
    floor_flops: float | None = None
    floor_bytes: float | None = None
    floor_seconds: float | None = None
    note: str = ""

    @property
    def time(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    @property
    def per_token(self) -> float | None:
        return None if self.time is None or not self.tokens else self.time / self.tokens

    @property
    def share_of_floor(self) -> float | None:
        return None if self.time is None or self.floor_seconds is None else self.floor_seconds / self.time


@dataclass(kw_only=True)
class Result:
    """A case, measured or refused."""

    case: Case
    sides: list[Side] = field(default_factory=list)
    refused: str = ""
    """What is wrong with a side; nothing was timed then."""
    rates: dict[str, float | None] = field(default_factory=dict)
    """FLOP/s and bytes/s of the machine just before."""
    seconds: float = 0.0
    """That the whole case took."""

    def side(self, name: str) -> Side | None:
        return next((side for side in self.sides if side.name == name), None)

    def label(self, side: Side) -> str:
        return label(side.name, self.case)

    def ratios(self, name: str, ours: str | None = None) -> list[float]:
        """How many times as long as the first side, or the one named second, the side took for a token, in each round."""
        first, other = self.sides[0] if ours is None else self.side(ours), self.side(name)
        if first is None or other is None or not first.tokens or not other.tokens:
            return []
        return [ratio * first.tokens / other.tokens for ratio in ratios(first.seconds, other.seconds)]


@dataclass(kw_only=True)
class Run:
    """All results of a machine."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    results: list[Result] = field(default_factory=list)

    def find(self, name: str) -> Result | None:
        return next((result for result in self.results if result.case.name == name), None)

    def add(self, result: Result) -> None:
        """A new result takes the place of an older one of that name."""
        self.results = [old for old in self.results if old.case.name != result.case.name] + [result]


def save(run: Run, path: Path) -> None:
    """Write a file whole or not at all."""
    from ..heads.files import replace_file

    content = {"format": FORMAT, "machine": run.machine, "settings": run.settings, "cases": [_plain(result) for result in run.results]}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    replace_file(path, lambda file: file.write_text(text, encoding="utf-8"))


def load(path: Path) -> Run:
    """What `save` wrote.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    return load_results(path, _run, program="subq bench", format=FORMAT)


def same_conditions(old: Run, new: Run) -> str | None:
    """Why results of one run cannot stand beside those of another; None if they can."""
    for name in ("processor", "threads", "gpu"):
        if old.machine.get(name) != new.machine.get(name):
            return f"{name} was {old.machine.get(name)}, and is {new.machine.get(name)}"
    if old.machine.get("packages", {}).get("torch") != new.machine.get("packages", {}).get("torch"):
        return f"torch was {old.machine.get('packages', {}).get('torch')}, and is {new.machine.get('packages', {}).get('torch')}"
    for name in ("device", "dtype", "freed memory"):
        if old.settings.get(name) != new.settings.get(name):
            return f"{name} was {old.settings.get(name)}, and is {new.settings.get(name)}"
    return None


def _run(content: dict[str, Any]) -> Run:
    return Run(machine=content["machine"], settings=content["settings"], results=[_result(values) for values in content["cases"]])


def _plain(result: Result) -> dict[str, Any]:
    return {**dataclasses.asdict(result), "case": result.case.to_dict()}


def _result(values: dict[str, Any]) -> Result:
    sides = [Side(**side) for side in values["sides"]]
    return Result(**{**values, "case": Case.from_dict(values["case"]), "sides": sides})
