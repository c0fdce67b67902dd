"""The command as a user meets it: help without waiting, and one clear line for whatever is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from subquadratic.cli.main import VERBS, main


def run(*argv: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "subquadratic", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["train", "--help"], ["generate", "--help"], ["convert", "--help"]])
def test_help_needs_neither_torch_nor_transformers(argv: list[str]) -> None:
    code = (
        "import sys; from subquadratic.cli.main import main; status = main(sys.argv[1:]); "
        "loaded = {'torch', 'transformers', 'numpy'} & set(sys.modules); assert not loaded, loaded; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_verb_is_listed_and_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for verb in VERBS:
        assert f"\n  {verb} " in listed
        assert main([verb, "--help"]) == 0
        assert f"examples:\n  subq {verb} " in capsys.readouterr().out


def test_the_module_is_the_command() -> None:
    assert run("--version").stdout == "subquadratic 0.1.0\n"


BAD = [
    ([], "usage"),
    (["trian"], "did you mean train?"),
    (["dance"], "choose from train"),
    (["train", "--lerning_rate", "1"], "did you mean --learning_rate?"),
    (["train", "--model", "perfomer"], "did you mean 'performer'?"),
    (["train", "--model", "gpt"], "model must be one of 'fastformer'"),
    (["train", "--dim", "wide"], "--dim must be an integer, got 'wide'"),
    (["train", "--dim"], "--dim needs a value"),
    (["train", "--dim", "--depth", "2"], "--dim needs a value"),
    (["train", "--dim", "0"], "dim must be at least 1, got 0"),
    (["train", "--context", "1"], "context must be at least 2, got 1"),
    (["train", "--max_steps", "0"], "max_steps must be at least 1"),
    (["train", "--learning_rate", "-1"], "learning_rate must be above 0"),
    (["train", "--budget", "soon"], "budget must be a time such as"),
    (["train", "--precision", "half"], "one of auto, float32, bfloat16"),
    (["train", "--config", "missing.yaml"], "missing.yaml"),
    (["train", "surplus"], "surplus"),
    (["train", "--data", "missing.txt"], "missing.txt"),
    (["train", "--data", "empty.txt"], "empty.txt is empty"),
    (["train", "--data", "short.txt"], "less than one window"),
    (["train", "--data", "folder"], "no text files in"),
    (["train", "--dim", "30", "--heads", "4"], "dim must be divisible by heads"),
    (["train", "--fields.kernal", "relu"], "did you mean 'kernel'?"),
    (["train", "--fields.kernel", "cosine"], "kernel must be"),
    (["train", "--model", "perceiver_ar", "--causal", "false"], "causal must be True"),
    (["train", "--out", "full"], "is not empty"),
    (["train", "--out", "empty.txt"], "is a file"),
    (["train", "--config", "typo.yaml"], "did you mean learning_rate?"),
    (["generate"], "RUN is missing"),
    (["generate", "missing"], "no such folder: missing"),
    (["generate", "full"], "holds no model"),
    (["generate", "full", "--temperature", "-1"], "temperature must be at least 0"),
    (["generate", "full", "--top_p", "2"], "top_p must be greater than 0"),
    (["generate", "full", "--top_k", "0"], "top_k must be an integer of at least 1"),
    (["convert", "missing.pt", "--from", "linformer", "--out", "x"], "no such file: missing.pt"),
    (["convert", "empty.txt", "--from", "lynformer", "--out", "x"], "linformer"),
    (["convert", "empty.txt", "--out", "x"], "--from is missing"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[" ".join(argv) or "nothing" for argv, _ in BAD])
def test_bad_input_is_one_clear_line(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUBQ_TRACEBACK", raising=False)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    (tmp_path / "typo.yaml").write_text("lerning_rate: 1\n")
    before = sorted(tmp_path.rglob("*"))
    assert main(argv) == 2
    printed = capsys.readouterr()
    if argv:
        assert message in printed.err
        assert printed.err.startswith("subq")
        assert printed.err.count("\n") == 1
    else:
        assert message in printed.out
    assert sorted(tmp_path.rglob("*")) == before


def test_flags_win_over_the_file_wherever_it_stands(tmp_path: Path) -> None:
    from subquadratic.cli.options import parse
    from subquadratic.training import TrainOptions

    (tmp_path / "run.yaml").write_text("dim: 64\ndepth: 2\nfields: {kernel: relu}\n")
    argv = ["--dim", "32", "--config", str(tmp_path / "run.yaml"), "--overwrite", "--causal=false", "--budget", "90"]
    options = parse(TrainOptions, argv, verb="train", examples="")
    assert (options.dim, options.depth, options.fields) == (32, 2, {"kernel": "relu"})
    assert (options.overwrite, options.causal, options.budget) == (True, False, "90")


@pytest.mark.parametrize("text", ["123", "null", "a: b", "'q'", "-x", "--out", "[1", "é\n{", "true", ""])
def test_text_reaches_the_verb_as_it_was_typed(text: str) -> None:
    from subquadratic.cli.generate import GenerateOptions
    from subquadratic.cli.options import parse

    assert parse(GenerateOptions, ["run", "--prompt", text], verb="generate", examples="", positional="run").prompt == text


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "jsonargparse.py").write_text("raise ModuleNotFoundError('gone', name='jsonargparse')\n")
    done = run("train", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert "pip install 'subquadratic[train]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_the_extra_every_verb_names_the_extra_alone() -> None:
    code = (
        "import sys; from subquadratic.cli.main import EXTRAS, VERBS, main\n"
        "sys.modules.update(dict.fromkeys(EXTRAS))\n"  # as if none of them were installed
        "sys.exit(any(main([verb, '--help']) != 2 for verb in VERBS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert len(lines) == len(VERBS)
    for verb, line in zip(VERBS, lines, strict=True):
        assert line == f"subq {verb}: needs packages that are not installed: pip install 'subquadratic[train]'"


def test_train_then_generate(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    small = ["--dim", 16, "--depth", 1, "--heads", 2, "--context", 32, "--max_steps", 3, "--evaluations", 1]
    done = run("train", "--data", text, "--out", tmp_path / "run", *small)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for part in ("data ", "model ", "step ", "bits/byte", "tokens/s", "validation ", "sample ", "subq generate"):
        assert part in done.stdout
    assert json.loads((tmp_path / "run" / "run.json").read_text())["result"]["steps"] == 3

    again = run("train", "--data", text, "--out", tmp_path / "run", *small)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr

    argv = ["generate", tmp_path / "run", "--prompt", "thé ", "--max_new_tokens", 20, "--seed", 7]
    first, second = run(*argv), run(*argv)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("thé ")
    assert first.stdout == second.stdout
    assert run("generate", tmp_path / "run", "--max_new_tokens", 5).returncode == 0
