"""Results are kept one by one, replaced whole, and continued; a broken measurement stops nothing."""

import dataclasses
import json
import math
import time
from pathlib import Path

import pytest
import torch

from subquadratic.reproduction import run as running
from subquadratic.reproduction.claim import FAILS, HOLDS, UNMEASURABLE, Claim, Condition, Measurement, Paper, Plot, Setting
from subquadratic.reproduction.results import NAME, Result, load, load_folder, merged, save
from subquadratic.reproduction.shared import shared


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made(Claim):
    """A claim that measures what it is told to."""

    value: float = 1.0

    def find(self, setting: Setting) -> Measurement:
        if math.isnan(self.value):
            raise RuntimeError("no such thing")
        plot = Plot(x="x", y="y", series={"line": [(1.0, 2.0), (2.0, math.nan)]}, dashed=("line",))
        numbers = {"x": self.value}
        return Measurement(numbers=numbers, margins={"x": 0.1}, columns=["a"], rows=[["1"]], plot=plot, setup="made up")


def made(name: str, value: float = 1.0, seconds: float = 1.0, experiment: str = "") -> Made:
    conditions = (Condition(number="x", text="x", least=0.5),)
    paper = Paper(name="X", arxiv="1234.5678")
    return Made(
        id=name, paper=paper, place="", text="It is.", experiment=experiment or f"a.{name}", seconds=seconds, conditions=conditions,
        value=value, note="Made up.",
    )  # fmt: skip


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
    assert again["a"].form == made("a").form and again["a"].measurement.margins == {"x": 0.1} and again["a"].form.note == "Made up."
    json.loads((tmp_path / NAME).read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_resume_keeps_what_the_same_code_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running.measure([made("a")], setting=Setting(), out=tmp_path)
    found = running.measure([made("a"), made("b")], setting=Setting(), out=tmp_path, resume=True)
    assert found.kept == ["a"] and [result.id for result in found.results] == ["b"]
    assert running.measure([made("a")], setting=Setting(seed=1), out=tmp_path, resume=True).kept == []
    facts = running.facts
    monkeypatch.setattr(running, "facts", lambda: {**facts(), "code": "other"})
    assert running.measure([made("b")], setting=Setting(), out=tmp_path, resume=True).kept == []


def test_what_could_not_be_measured_is_tried_again(tmp_path: Path) -> None:
    (result,) = running.measure([made("a")], setting=Setting(), out=tmp_path).results
    missing = dataclasses.replace(result, verdict=UNMEASURABLE, measurement=Measurement(unavailable="no such package"))
    save([missing], tmp_path / NAME)
    assert running.measure([made("a")], setting=Setting(), out=tmp_path, resume=True).kept == []


def test_infinity_is_kept_and_older_files_are_read(tmp_path: Path) -> None:
    results = running.measure([made("a", math.inf), made("b", -math.inf)], setting=Setting(), out=tmp_path).results
    assert [result.verdict for result in results] == [HOLDS, FAILS]
    assert [result.measurement.numbers["x"] for result in load(tmp_path / NAME)] == [math.inf, -math.inf]
    content = json.loads((tmp_path / NAME).read_text())
    for values in content["results"]:
        del values["form"], values["shared_seconds"], values["measurement"]["margins"], values["measurement"]["finding"]
        values["measurement"]["numbers"] = {"x": None}  # as it was written once
    (tmp_path / NAME).write_text(json.dumps(content))
    first, _ = load(tmp_path / NAME)
    assert first.form is None and first.shared_seconds == 0 and math.isnan(first.measurement.numbers["x"])


def test_claims_of_one_experiment_measure_it_once_and_know_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def find(self: Made, setting: Setting) -> Measurement:
        measured.append(self.id)
        time.sleep(0.02)
        return Measurement(numbers={"x": 1.0})

    monkeypatch.setattr(Made, "find", find)
    first, second, other = running.measure(
        [made("a", experiment="a.b"), made("b", experiment="a.b"), made("c", experiment="a.c")], setting=Setting()
    ).results
    assert measured == ["a", "c"] and first.seconds == second.seconds >= 0.02
    assert (first.shared_seconds, second.shared_seconds, other.shared_seconds) == (0, first.seconds, 0)


def test_what_another_claim_spent_on_a_shared_part_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    @shared
    def part(setting: Setting) -> float:
        time.sleep(0.02)
        return 1.0

    monkeypatch.setattr(Made, "find", lambda self, setting: Measurement(numbers={"x": part(setting)}))
    first, second = running.measure([made("a"), made("b")], setting=Setting()).results
    assert first.shared_seconds == 0 and second.seconds >= second.shared_seconds >= 0.02


def test_a_broken_measurement_loses_nothing(tmp_path: Path) -> None:
    running.measure([made("b")], setting=Setting(), out=tmp_path)
    found = running.measure([made("a"), made("b", math.nan), made("c")], setting=Setting(), out=tmp_path)
    assert found.broken == {"b": "RuntimeError: no such thing"} and [result.id for result in found.results] == ["a", "c"]
    assert [result.id for result in load(tmp_path / NAME)] == ["b", "a", "c"]


def test_no_claim_begins_that_no_longer_fits(tmp_path: Path) -> None:
    ticks = iter([0.0, 0.0, 5.0, 7.0, 9.0])
    claims = [made("a", seconds=9), made("b", seconds=4), made("c", seconds=20), made("d", seconds=2)]
    found = running.measure(claims, setting=Setting(), seconds=10, clock=lambda: next(ticks))
    assert [result.id for result in found.results] == ["a", "b"]
    assert found.left_out == {"c": "takes 20 s", "d": "no time was left for its 2 s"}
    with pytest.raises(ValueError, match="nothing fits into 1 s: d takes 2 s"):
        running.measure(claims, setting=Setting(), seconds=1)


def test_what_is_kept_or_shared_costs_nothing(tmp_path: Path) -> None:
    claims = [made(name, seconds=8, experiment=experiment) for name, experiment in (("a", "a.a"), ("b", "a.b"), ("c", "a.b"))]
    begun: list[tuple[str, str, float]] = []

    def begins(claim: Claim, place: str, cost: float) -> None:  # and that much time passes
        begun.append((claim.id, place, cost))

    for measured in (["a"], ["b", "c"], []):
        past = len(begun)
        found = running.measure(
            claims, setting=Setting(), out=tmp_path, resume=True, seconds=10, begins=begins,
            clock=lambda past=past: sum(cost for _, _, cost in begun[past:]),
        )  # fmt: skip
        assert [result.id for result in found.results] == measured
    assert begun == [("a", "1 of 3", 8), ("b", "1 of 2", 8), ("c", "2 of 2", 0)] and found.kept == ["a", "b", "c"]


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
