"""`subq compare` from the command line."""

from pathlib import Path

import pytest

from subquadratic.cli.main import main


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
