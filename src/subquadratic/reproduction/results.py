"""The file that keeps what was measured: `results.json`, one result a claim, each replaced whole by a later one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.plain_json import load_results, to_json
from ..heads.files import replace_file
from .claim import Condition, Form, Measurement, Plot

FORMAT = 1
PROGRAM = "subq reproduce"
NAME = "results.json"


@dataclass(kw_only=True)
class Result:
    """One claim, measured once. The verdict stands here for whoever reads the file; a page judges the numbers again.

    Args:
        id: of the claim.
        seed: it was measured with.
        seconds: it took, as a clock says, with what it shares with other claims.
        cpu_seconds: of all threads; on a busy machine the better measure.
        machine: of `benchmark.machine.facts()`.
        measurement, verdict, met: see `claim.Outcome`.
        shared_seconds: of `seconds`, those that another claim of the same run had spent.
        form: what was asked then; None in files from before it was kept.
    """

    id: str
    seed: int
    seconds: float
    cpu_seconds: float
    verdict: str
    met: list[bool | None]
    machine: dict[str, Any]
    measurement: Measurement
    shared_seconds: float = 0.0
    form: Form | None = None


def merged(old: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """The results of both, by claim the later one."""
    found = {result.id: result for result in old}
    return list((found | {result.id: result for result in new}).values())


def save(results: Iterable[Result], path: Path) -> None:
    """Write the file whole or not at all."""
    content = {"format": FORMAT, "program": PROGRAM, "results": [plain(result) for result in results]}
    text = to_json(content, indent=1, ensure_ascii=False) + "\n"
    replace_file(path, lambda file: file.write_text(text, encoding="utf-8"))


def load(path: Path) -> list[Result]:
    """What `save` wrote.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    return load_results(path, _results, program=PROGRAM, format=FORMAT)


def load_folder(folder: Path) -> list[Result]:
    """The results of all files of a folder, of each claim the latest."""
    found = [result for path in sorted(folder.glob("*.json")) for result in load(path)]
    return merged([], sorted(found, key=lambda result: str(result.machine.get("date"))))


def _results(content: dict[str, Any]) -> list[Result]:
    if content["program"] != PROGRAM:
        raise ValueError(f"{content['program']} wrote it")
    return [_result(values) for values in content["results"]]


def plain(result: Result) -> dict[str, Any]:
    """Lists, dictionaries and numbers: with the words `inf` and `-inf`, which `float` reads, since JSON has none for them."""
    values = dataclasses.asdict(result)
    numbers = values["measurement"]["numbers"]
    numbers.update({name: str(value) for name, value in numbers.items() if value is not None and math.isinf(value)})
    return values


def _result(values: dict[str, Any]) -> Result:
    measurement = dict(values["measurement"])
    plot = measurement.get("plot")
    if plot is not None:
        series = {name: [(_number(x), _number(y)) for x, y in points] for name, points in plot["series"].items()}
        measurement["plot"] = Plot(**{**plot, "series": series, "dashed": tuple(plot["dashed"])})
    for field in ("numbers", "margins"):
        measurement[field] = {name: _number(value) for name, value in measurement.get(field, {}).items()}
    form = values.get("form")
    return Result(**{**values, "measurement": Measurement(**measurement), "form": None if form is None else _form(form)})


def _form(values: dict[str, Any]) -> Form:
    """A bound that is infinite is null in the file."""
    conditions = [
        Condition(**{name: value for name, value in condition.items() if value is not None}) for condition in values["conditions"]
    ]
    return Form(**{**values, "conditions": tuple(conditions)})


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)
