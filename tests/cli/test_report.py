"""`subq report`: the page anew, and the verdict on the terminal."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.comparison import synthetic

from subquadratic.cli import report
from subquadratic.cli.options import UsageError
from subquadratic.comparison.results import save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "comparison"
    found.mkdir()
    save(synthetic.comparison(names=("performer", "transformer")), found / "results.json")
    return found


def test_it_writes_the_page_and_prints_the_verdict(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert report.run([str(folder)]) == 0
    out = capfd.readouterr().out
    assert "At 4,096 tokens on this machine, after 2 minutes of training each, Performer reaches" in " ".join(out.split())
    assert str(folder / "report.html") in out.replace("\n", "")
    assert {"report.html", "results.csv", "speed.csv", "charts", "results.json"} == {path.name for path in folder.iterdir()}


def test_a_file_and_another_folder(folder: Path, tmp_path: Path) -> None:
    before = (folder / "results.json").read_bytes()
    assert report.run([str(folder / "results.json"), "--out", str(tmp_path / "new" / "place")]) == 0
    assert (tmp_path / "new" / "place" / "report.html").is_file()
    assert [path.name for path in folder.iterdir()] == ["results.json"]
    assert (folder / "results.json").read_bytes() == before


def test_another_comparison_beside_it(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = synthetic.comparison(names=("performer",), seed=1)
    other.machine["processor"] = "Another processor"
    save(other, tmp_path / "other.json")
    assert report.run([str(folder), "--against", str(tmp_path / "other.json")]) == 0
    assert "processor: Example CPU 8480+; there Another processor" in " ".join(capfd.readouterr().out.split())
    assert "Another processor" in (folder / "report.html").read_text()


def test_other_data_is_refused_and_nothing_written(folder: Path, tmp_path: Path) -> None:
    other = synthetic.comparison(names=("performer",))
    save(dataclasses.replace(other, data={**other.data, "digest": "another"}), tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"against: that comparison has other data .*'another'.*'b88634198c25'"):
        report.run([str(folder), "--against", str(tmp_path / "other.json")])
    assert [path.name for path in folder.iterdir()] == ["results.json"]


@pytest.mark.parametrize("words", [["nowhere"], ["."]])
def test_a_folder_without_results_is_told(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"cannot read .*: No such file"):
        report.run(words)


def test_an_empty_name_is_told(folder: Path) -> None:
    with pytest.raises(ValueError, match="against"):
        report.run([str(folder), "--against", ""])


def test_an_unknown_option_is_told(folder: Path) -> None:
    with pytest.raises(UsageError, match="unknown option --agains; did you mean --against"):
        report.run([str(folder), "--agains", "x"])


@pytest.mark.parametrize("columns", [60, 100])
def test_it_fits_the_terminal_and_needs_no_torch(folder: Path, columns: int) -> None:
    code = (
        "import sys; from subquadratic.cli import report; status = report.run(sys.argv[1:]);"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules); sys.exit(status)"
    )
    environment = {**os.environ, "COLUMNS": str(columns)}
    found = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=environment, timeout=60)
    assert found.returncode == 0, found.stderr
    lines = [line for line in found.stdout.splitlines() if not line.startswith("page: ")]
    assert max(map(len, lines)) <= columns
