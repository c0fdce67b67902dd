"""The page says what the results in the repository say, failures as plainly as the rest."""

import re
from pathlib import Path

import pytest

from subquadratic.reproduction import page
from subquadratic.reproduction.catalogue import CLAIMS
from subquadratic.reproduction.claim import FAILS, HOLDS, NOT_RUN, UNMEASURABLE, Measurement, Plot, counted
from subquadratic.reproduction.results import Result, load_folder

ROOT = Path(__file__).parents[2]
KEPT = page.by_claim(load_folder(ROOT / page.RESULTS))


def made(name: str, **measured: object) -> Result:
    machine = {"processor": "P", "threads": 2, "packages": {"torch": "2.13.0"}, "python": "3.11", "revision": "abc", "date": "2026-01-02"}
    measurement = Measurement(setup="made up", columns=["a", "b|c"], rows=[["1", "x|y"]], **measured)  # type: ignore[arg-type]
    return Result(id=name, seed=0, seconds=1.0, cpu_seconds=1.0, verdict="", met=[], machine=machine, measurement=measurement)


def test_the_page_is_what_the_results_give() -> None:
    assert (ROOT / page.PAGE).read_text(encoding="utf-8") == page.page(KEPT), "python -m subquadratic.reproduction.page makes it anew"


def test_every_plot_of_the_page_is_there() -> None:
    named = set(re.findall(r"\]\((images/reproduction/[\w.]+\.svg)\)", (ROOT / page.PAGE).read_text(encoding="utf-8")))
    assert named == {f"images/reproduction/{path.name}" for path in (ROOT / page.IMAGES).glob("*.svg")}


@pytest.mark.parametrize("result", KEPT.values(), ids=lambda result: result.id)
def test_kept_verdicts_follow_from_kept_numbers(result: Result) -> None:
    outcome = CLAIMS[result.id].judge(result.measurement)
    assert (outcome.verdict, outcome.met) == (result.verdict, result.met)


def test_each_verdict_is_told_as_it_is() -> None:
    name = "fastformer.equations"
    good, bad = ({"error": error, "raw keys": 0.1} for error in (1e-15, 0.1))
    found = page.page({name: made(name, numbers=good)})
    assert f"Of {len(CLAIMS)} claims: 1 holds, {len(CLAIMS) - 1} not run yet." in found and f"**Verdict: {HOLDS}.**" in found
    found = page.page({name: made(name, numbers=bad)})
    assert f"**Verdict: {FAILS}.**" in found and "| **no** |" in found and f"1 {FAILS}" in found and r"x\|y" in found
    found = page.page({name: made(name, unavailable="it needs a GPU")})
    assert f"**Verdict: {UNMEASURABLE}.**" in found and "it needs a GPU." in found
    assert f"**Verdict: {NOT_RUN}.**" in found and f"`subq reproduce {name}`" not in found


def test_counts_are_english() -> None:
    assert counted([FAILS, HOLDS, NOT_RUN, HOLDS]) == "2 hold, 1 does not hold, 1 not run yet"
    assert counted([FAILS, FAILS, UNMEASURABLE]) == "2 do not hold, 1 not measurable here"


def test_the_page_and_its_plots_are_written_the_same_each_time(tmp_path: Path) -> None:
    name = "recall.state_size"
    plot = Plot(x="size", y="pairs", series={"a": [(1.0, 2.0), (2.0, 4.0)], "b": [(1.0, 1.0), (2.0, 2.0)]}, dashed=("b",))
    result = made(name, numbers={"linear slope": 1.0, "favor slope": 1.0}, plot=plot)
    (tmp_path / "docs").mkdir()
    (tmp_path / page.IMAGES).mkdir(parents=True)
    (tmp_path / page.IMAGES / "gone.svg").write_text("")
    written = []
    for _ in range(2):
        page.write(tmp_path, {name: result})
        written.append([path.read_bytes() for path in (tmp_path / page.PAGE, tmp_path / page.IMAGES / f"{name}.svg")])
    assert written[0] == written[1] and [path.name for path in (tmp_path / page.IMAGES).iterdir()] == [f"{name}.svg"]
