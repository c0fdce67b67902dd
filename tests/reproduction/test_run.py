"""Results are kept one by one, replaced whole, and continued; a broken measurement stops nothing."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from subquadratic.reproduction import run as running
from subquadratic.reproduction.claim import FAILS, HOLDS, Claim, Condition, Measurement, Paper, Plot, Setting
from subquadratic.reproduction.results import NAME, Result, load, load_folder, merged, save


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made(Claim):
    """A claim that measures what it is told to."""

    value: float = 1.0

    def measure(self, setting: Setting) -> object:
        if math.isnan(self.value):
            raise RuntimeError("no such thing")
        plot = Plot(x="x", y="y", series={"line": [(1.0, 2.0), (2.0, math.nan)]}, dashed=("line",))
        return self.judge(Measurement(numbers={"x": self.value}, columns=["a"], rows=[["1"]], plot=plot, setup="made up"))


def made(name: str, value: float = 1.0, seconds: float = 1.0) -> Made:
    conditions = (Condition(number="x", text="x", least=0.5),)
    paper = Paper(name="X", arxiv="1234.5678")
    return Made(id=name, paper=paper, place="", text="It is.", experiment="a.b", seconds=seconds, conditions=conditions, value=value)


def test_results_are_kept_at_once_and_replaced_whole(tmp_path: Path) -> None:
    first = running.measure([made("a"), made("b", 0.0)], setting=Setting(), out=tmp_path)
    assert [result.verdict for result in first.results] == [HOLDS, FAILS]
    kept = load(tmp_path / NAME)
    assert [(result.id, result.verdict, result.met) for result in kept] == [("a", HOLDS, [True]), ("b", FAILS, [False])]
    assert kept[0].machine["packages"]["torch"] == torch.__version__ and kept[0].machine["code"]
    assert math.isnan(kept[0].measurement.plot.series["line"][1][1]) and kept[0].measurement.plot.dashed == ("line",)
    running.measure([made("a", 0.25)], setting=Setting(seed=3), out=tmp_path)
    again = {result.id: result for result in load(tmp_path / NAME)}
    assert again["a"].verdict == FAILS and again["a"].measurement.numbers == {"x": 0.25} and again["a"].seed == 3
    assert again["b"] == kept[1]
    json.loads((tmp_path / NAME).read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_resume_keeps_what_the_same_code_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running.measure([made("a")], setting=Setting(), out=tmp_path)
    found = running.measure([made("a"), made("b")], setting=Setting(), out=tmp_path, resume=True)
    assert found.kept == ["a"] and [result.id for result in found.results] == ["b"]
    assert running.measure([made("a")], setting=Setting(seed=1), out=tmp_path, resume=True).kept == []
    facts = running.facts
    monkeypatch.setattr(running, "facts", lambda: {**facts(), "code": "other"})
    assert running.measure([made("b")], setting=Setting(), out=tmp_path, resume=True).kept == []


def test_a_broken_measurement_loses_nothing(tmp_path: Path) -> None:
    running.measure([made("b")], setting=Setting(), out=tmp_path)
    found = running.measure([made("a"), made("b", math.nan), made("c")], setting=Setting(), out=tmp_path)
    assert found.broken == {"b": "RuntimeError: no such thing"} and [result.id for result in found.results] == ["a", "c"]
    assert [result.id for result in load(tmp_path / NAME)] == ["b", "a", "c"]


def test_no_claim_begins_that_no_longer_fits(tmp_path: Path) -> None:
    ticks = iter([0.0, 5.0, 9.0])
    found = running.measure(
        [made("a", seconds=20), made("b", seconds=4), made("c", seconds=2)], setting=Setting(), seconds=10, clock=lambda: next(ticks)
    )
    assert [result.id for result in found.results] == ["a", "b"] and found.left_out == ["c"]


def test_threads_are_set_back() -> None:
    before = torch.get_num_threads()
    running.measure([made("a")], setting=Setting(), threads=before + 1)
    assert torch.get_num_threads() == before


def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"cases": []}')
    with pytest.raises(ValueError, match="holds no results of subq reproduce"):
        running.measure([made("a")], setting=Setting(), out=tmp_path)
    assert (tmp_path / NAME).read_text() == '{"cases": []}'
    with pytest.raises(ValueError, match="cannot read"):
        load(tmp_path / "missing.json")


def test_of_several_files_the_latest_result_counts(tmp_path: Path) -> None:
    def result(date: str, value: float) -> Result:
        outcome = made("a", value).measure(Setting())
        return Result(
            id="a", seed=0, seconds=1.0, cpu_seconds=1.0, verdict=outcome.verdict, met=outcome.met, machine={"date": date},
            measurement=outcome.measurement,
        )  # fmt: skip

    old, new = result("2026-01-01", 0.0), result("2026-02-01", 1.0)
    save([new], tmp_path / "a.json")
    save([old], tmp_path / "b.json")
    assert [found.verdict for found in load_folder(tmp_path)] == [HOLDS]
    assert merged([old], [new]) == [new]
