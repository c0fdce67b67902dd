"""`subq compare` from the command line."""

import dataclasses
from pathlib import Path

import pytest
from tests.comparison import synthetic

from subquadratic.cli.main import main
from subquadratic.comparison.options import CompareOptions
from subquadratic.comparison.results import save


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "text.txt"
    path.write_text("def brown(fox):\n    return jumps.over(lazy_dog)\n" * 200)
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--models", "performr"], "did you mean performer"),
        (["--seeds", "none"], "--seeds must be an integer"),
        (["--budget", "5"], "budget must be at least 60 seconds"),
        (["--resume", "nowhere"], "resume: no such folder: nowhere"),
        (["--resume", "nowhere", "--seeds", "2"], "seeds is decided by the comparison"),
        (["--against", "nowhere.json"], "cannot read nowhere.json"),
        (["--data", "missing.txt", "--dry_run"], "missing.txt"),
    ],
)
def test_mistakes_are_told(text: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (text.parent / "comparisons").exists()


def test_a_comparison_and_its_continuation(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "text.txt", "--models", "performer", "--length", "32", "--parameters", "20k", "--seeds", "1", "--rates", "1"]
    dry = ["compare", *options, "--budget", "60s", "--threads", "1", "--dry_run"]
    assert main(dry) == 0
    assert "each run" in capsys.readouterr().out and not (text.parent / "comparisons").exists()


def test_another_comparison_beside_one_that_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = synthetic.comparison(names=("performer", "transformer"))
    made.settings["options"], made.interrupted = dataclasses.asdict(CompareOptions()), False
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        save(made, tmp_path / name / "results.json")
    assert main(["compare", "--resume", str(tmp_path / "here"), "--against", str(tmp_path / "there" / "results.json")]) == 0
    said = capsys.readouterr().out
    assert "is complete" in said and "there" not in said.split("is complete")[0]
    assert "beside" in said.lower() or "against" in said.lower()
