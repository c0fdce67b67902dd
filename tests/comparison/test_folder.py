"""Where a comparison is written, and what may be replaced there."""

from pathlib import Path

import pytest

from subquadratic.comparison.folder import choose_folder, remove_comparison, resumed, run_folder
from subquadratic.comparison.options import CompareOptions
from subquadratic.comparison.results import NAME, Comparison, Entry, Trial, load, save
from subquadratic.comparison.run import run

from .conftest import Maker


def test_the_first_free_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose_folder(CompareOptions()) == Path("comparisons/compare-1")
    (tmp_path / "comparisons" / "compare-1").mkdir(parents=True)
    assert choose_folder(CompareOptions()) == Path("comparisons/compare-2")


def test_nothing_of_anybody_else_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        choose_folder(CompareOptions(out=str(tmp_path)))
    with pytest.raises(ValueError, match="holds no comparison"):
        choose_folder(CompareOptions(out=str(tmp_path), overwrite=True))
    (tmp_path / NAME).write_text("{}")
    with pytest.raises(ValueError, match="holds no comparison"):
        choose_folder(CompareOptions(out=str(tmp_path), overwrite=True))


def test_data_do_not_grow_by_what_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is inside the data"):
        choose_folder(CompareOptions(data=str(tmp_path), out=str(tmp_path / "out")))


def test_overwriting_drops_the_runs_and_keeps_the_rest(comparing: Maker, tmp_path: Path) -> None:
    run(comparing("performer", seeds=1, rates=1))
    out = tmp_path / "out"
    (out / "notes.txt").write_text("mine")
    (out / "runs" / "performer-0" / "more.txt").write_text("mine too")
    assert choose_folder(CompareOptions(out=str(out), overwrite=True)) == out
    remove_comparison(out)
    left = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert left == ["notes.txt", "runs/performer-0/more.txt"]


def test_what_goes_on_needs_a_comparison(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        resumed(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="cannot read"):
        resumed(str(tmp_path))
    save(Comparison(settings={"options": {"budgets": 3}}, machine={}, data={}, unit="accuracy"), tmp_path / NAME)
    with pytest.raises(ValueError, match="written by another version"):
        resumed(str(tmp_path))


def test_names_of_folders_are_plain() -> None:
    assert run_folder("mine:build", 2) == "runs/mine-build-2"
    assert run_folder("../etc", 0) == "runs/..-etc-0"


def test_results_are_kept_as_they_are(tmp_path: Path) -> None:
    made = Comparison(
        settings={"length": 3}, machine={"threads": 2}, data={"digest": "é"}, unit="bits/byte", entries=[Entry(name="a", source="ours")],
        trials=[Trial(entry="a", seed=0, value=float("1.5"))],
    )  # fmt: skip
    save(made, tmp_path / NAME)
    assert load(tmp_path) == load(tmp_path / NAME) == made
    (tmp_path / NAME).write_text('{"format": 99}')
    with pytest.raises(ValueError, match="holds no results of subq compare"):
        load(tmp_path / NAME)
