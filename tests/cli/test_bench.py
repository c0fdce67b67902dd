"""`subq bench`: what it lists, measures, keeps and refuses."""

import json
from pathlib import Path

import pytest
import torch

from subquadratic.benchmark import models
from subquadratic.cli.bench import gathered
from subquadratic.cli.main import main

TINY = ["--lengths", "48", "--dim", "64", "--depth", "1", "--heads", "2", "--rounds", "1", "--threads", "1", "--memory", "false"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subquadratic.benchmark.run.PROBE", {"side": 64, "numbers": 1 << 16, "tries": 1})


def test_list_names_cases_and_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 100 and "model/performer/train/2048" in [line.split()[0] for line in lines]
    assert main(["bench", "--list", "--cases", "op/favor/*", "model/linformer/train/300", "--against", "none"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert names[-1].split() == ["model/linformer/train/300", "linformer"] and len(names) == 7


def test_a_table_of_what_was_measured_and_files_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["bench", "--cases", "op/favor/train/48", "op/prefix-softmax/train/48", *TINY, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "op/favor/train/48" in printed.out and "sdpa" in printed.out and "x ours" in printed.out
    assert "1 of 2: op/favor/train/48" in printed.err and f"results are in {out}" in printed.err
    assert {path.name for path in out.iterdir()} == {"results.json", "table.md"}
    assert len(json.loads((out / "results.json").read_text())["cases"]) == 2
    other = tmp_path / "other"
    assert main(["bench", "--plot", str(out / "results.json"), "--out", str(other)]) == 0
    assert (other / "table.md").read_text() == (out / "table.md").read_text()
    assert main(["bench", "--cases", "op/favor/train/48", *TINY, "--out", str(out), "--resume"]) == 0
    assert "1 of" not in capsys.readouterr().err


def test_a_refused_case_is_exit_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    forward = models.LanguageModel.forward
    monkeypatch.setattr(models.LanguageModel, "forward", lambda self, x, **rest: forward(self, x, **rest) + 1e-7 * x.float().mean())
    assert main(["bench", "--cases", "model/fastformer/forward/48", *TINY]) == 1
    assert "refused: fastformer: changing the future" in " ".join(capsys.readouterr().out.split())
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--cases", "model/perfomer/train/1024"], "did you mean 'model/performer/train/1024'?"),
        (["--against", "publisht"], "did you mean 'published'?"),
        (["--suite", "fast"], "must be one of quick, everyday, targets, lengths, full, got 'fast'"),
        (["--lengths", "1k,long"], "lengths must be numbers such as 1024 or 16k, got 'long'"),
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (["--dim", "30"], "dim must be a multiple of heads"),
        (["--device", "tpu"], "device must be cpu or cuda, got 'tpu'"),
        (["--resume"], "resume needs --out"),
        (["--plot", "missing.json"], "cannot read missing.json"),
        (["--laps", "3"], "unknown option --laps"),
    ],
)
def test_errors_say_what_was_meant(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *argv]) == 2
    told = capsys.readouterr().err
    assert text in told and told.count("\n") == 1


def test_values_of_a_flag_may_be_separate_words() -> None:
    assert gathered(["--cases", "a", "b", "--dim", "8", "--plot", "c"]) == ["--cases", "a,b", "--dim", "8", "--plot", "c"]
    assert gathered(["--cases=a,b", "--list"]) == ["--cases=a,b", "--list"]
