"""Where a comparison is written, and what may be replaced there."""

import io
from pathlib import Path

import pytest

from subquadratic.comparison.comparing import Comparing
from subquadratic.comparison.display import Display
from subquadratic.comparison.folder import LOG, choose_folder, discard, remove_comparison, resumed, run_folder
from subquadratic.comparison.options import CompareOptions
from subquadratic.comparison.results import NAME, Comparison, Entry, Trial, load, save
from subquadratic.comparison.run import run
from subquadratic.training.display import PlainDisplay

from .conftest import Maker


def test_the_first_free_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose_folder(CompareOptions()) == Path("comparisons/compare-1")
    (tmp_path / "comparisons" / "compare-1").mkdir(parents=True)
    assert choose_folder(CompareOptions()) == Path("comparisons/compare-2")


def test_nothing_of_anybody_else_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"is not empty, and holds no comparison \(notes.txt is in it\)"):
            choose_folder(CompareOptions(out=str(tmp_path), overwrite=overwrite))
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
    with pytest.raises(ValueError, match=r"there is no comparison in .* \(no results.json\)"):
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


class Killed(BaseException): ...


def test_one_that_was_killed_as_it_began_can_be_gone_on_with(comparing: Maker, tmp_path: Path) -> None:
    made, out = comparing("performer", seeds=1, rates=1), tmp_path / "out"
    (out / LOG).write_text("loading")
    assert choose_folder(CompareOptions(out=str(out))) == out, "a log alone is nobody's work"

    def ask(do: str, *args: object, **more: object) -> None:
        assert do == "facts" and (out / NAME).is_file()
        raise Killed

    made.workers.ask = ask  # type: ignore[assignment]
    with pytest.raises(Killed):
        run(made)
    path, kept, options = resumed(str(out))
    assert path == out and kept.interrupted and kept.data == {} and options == made.options
    with pytest.raises(ValueError, match=r"holds a comparison already: go on with it by subq compare --resume .*/out"):
        choose_folder(CompareOptions(out=str(out)))
    assert choose_folder(CompareOptions(out=str(out), overwrite=True)) == out
    kept.settings["conditions"] = made.comparison.settings["conditions"]
    assert [trial.status for trial in run(comparing("performer", comparison=kept, seeds=1, rates=1)).trials] == ["done"]


def test_what_was_refused_leaves_nothing(tmp_path: Path) -> None:
    made = Comparing(CompareOptions(), tmp_path / "out", Display(PlainDisplay(io.StringIO())))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOG).write_text("loading")
    made.keep()
    discard(tmp_path / "out")
    assert not (tmp_path / "out").exists()
