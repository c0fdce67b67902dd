"""What can be told without PyTorch is told without it: nobody waits seconds for a typing mistake."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "accelerate", "matplotlib")
CODE = """\
import contextlib, io, json, sys, time
from subquadratic.cli.main import main
for argv in json.loads(sys.argv[1]):
    output, said, started = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(said):
        status = main(argv)
    found = [status, output.getvalue(), said.getvalue(), [name for name in json.loads(sys.argv[2]) if name in sys.modules]]
    print(json.dumps([*found, time.process_time() - started]))
"""
FACTS = {"format": 1, "class": "LanguageModel", "config": {"model_type": "transformer", "dim": 16, "depth": 1, "heads": 2}}

QUICK = [
    ["--help"],
    ["models"],
    ["models", "performer"],
    ["bench", "--list"],
    ["tokenizer", "show", "bytes"],
    *([verb, "--help"] for verb in ("train", "generate", "fill", "evaluate", "predict", "serve")),
    *([verb, "--help"] for verb in ("bench", "compare", "info", "models", "distil", "convert", "completion")),
]
GIVEN = {
    "train": [],
    "generate": ["causal"],
    "fill": ["masked", "a [MASK]"],
    "evaluate": ["causal"],
    "predict": ["classes", "--data", "rows.csv"],
    "serve": ["causal"],
    "bench": [],
    "distil": ["bert", "--out", "x"],
}
WRONG = [
    ["train", "--data", "missing.txt"],
    ["train", "--validation_data", "missing.txt"],
    ["train", "--data", "rows.csv", "--tokens", "4", "--dtype", "uint8"],
    ["train", "--data", "rows.csv", "--bins", "4", "--validation_data", "missing.csv"],
    ["train", "--bins", "4"],
    ["train", "--data", "rows.csv", "--tokens", "4", "--validation_data", "stdlib"],
    ["train", "--dim", "30", "--heads", "4"],
    ["train", "--fields.kernal", "relu"],
    ["train", "--model", "gpt"],
    ["train", "--threads", "0"],
    *([verb, *given, "--threads", "99999"] for verb, given in GIVEN.items()),
    ["info", "--threads", "0"],
    ["tokenizer", "train", "--out", "x", "--threads", "0"],
    ["train", "--tokenizer", "missing"],
    ["train", "--weights", "full"],
    ["train", "--out", "full"],
    ["train", "--out", "/proc/none/run"],
    ["train", "--resume", "missing"],
    ["train", "--data", "rows.csv", "--target", "text", "--model", "perceiver_ar"],
    ["generate", "missing"],
    ["generate", "full"],
    ["generate", "causal", "--top_p", "2"],
    ["generate", "masked"],
    ["generate", "causal", "--prompt_file", "missing.txt"],
    ["generate", "classes"],
    ["generate", "causal", "--prompt_length", "3"],
    ["generate", "integers", "--stop", "x"],
    ["generate", "integers", "--prompt_file", "missing.npy"],
    ["generate", "integers", "--prompt_file", "rows.csv", "--column", "missing"],
    ["fill", "causal", "a [MASK]"],
    ["fill", "masked", "nothing hidden"],
    ["evaluate", "missing"],
    ["evaluate", "causal"],
    ["evaluate", "causal", "--data", "missing.txt"],
    ["evaluate", "causal", "--data", "rows.csv", "--label", "stars"],
    ["predict", "missing", "--data", "rows.csv"],
    ["predict", "causal", "--data", "rows.csv"],
    ["predict", "classes", "--data", "missing.csv"],
    ["predict", "classes", "--data", "rows.csv", "--max_new_tokens", "3"],
    ["predict", "classes", "--data", "rows.csv", "--tokenizer", "missing"],
    ["serve", "missing"],
    ["serve", "full"],
    ["serve", "masked"],
    ["serve", "classes"],
    ["serve", "integers"],
    ["serve", "causal", "--host", "0.0.0.0"],
    ["serve", "causal", "--port", "99999"],
    ["serve", "causal", "--queue", "0"],
    ["info", "missing"],
    ["info", "--dim", "30"],
    ["info", "--model", "gpt"],
    ["distil", "missing", "--out", "x"],
    ["distil", "full", "--out", "x"],
    ["distil", "causal", "--out", "x"],
    ["distil", "bert", "--out", "full"],
    ["distil", "bert", "--out", "bert"],
    ["distil", "bert", "--out", "x", "--attention", "fastformer"],
    ["distil", "bert", "--out", "x", "--data", "missing.txt"],
    ["distil", "bert", "--out", "x", "--budget", "soon"],
    ["distil", "bert", "--out", "x", "--features", "0"],
    ["distil", "bert", "--out", "x", "--layerwise", "2"],
    ["convert", "missing.pt", "--from", "linformer", "--out", "x"],
    ["convert", "rows.csv", "--from", "lynformer", "--out", "x"],
    ["bench", "--cases", "nothing"],
    ["tokenizer", "train", "--data", "missing", "--out", "x"],
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with saved models, of which nobody looks at the weights."""
    folder = tmp_path_factory.mktemp("early")
    for name, content in (
        ("causal", FACTS),
        ("integers", FACTS),
        ("masked", {**FACTS, "config": {**FACTS["config"], "causal": False}}),  # type: ignore[dict-item]
        ("classes", {**FACTS, "class": "SequenceClassifier"}),
    ):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(content))
        (folder / name / "model.safetensors").touch()
    (folder / "integers" / "values.json").write_text(json.dumps({"format": 1, "kind": "integers", "size": 9}))
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / "bert" / name).touch()
    (folder / "full").mkdir()
    (folder / "full" / "kept.txt").write_text("kept")
    (folder / "rows.csv").write_text("text,stars\ngood,5\n")
    return folder


def run(
    commands: list[list[str]], place: Path, heavy: tuple[str, ...] = HEAVY, **environment: str
) -> list[tuple[int, str, str, list[str], float]]:
    """Of each command: exit status, output, errors, which heavy packages are loaded by now, and seconds of CPU."""
    arguments, more = [json.dumps(commands), json.dumps(heavy)], {"env": {**os.environ, **environment}, "timeout": 240}
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], cwd=place, capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_mistakes_are_told_without_pytorch(place: Path) -> None:
    for argv, (status, output, said, loaded, seconds) in zip(WRONG, run(WRONG, place), strict=True):
        assert (status, output, loaded) == (2, "", []), argv
        assert said.startswith("subq") and said.count("\n") == 1, argv
        assert seconds < 0.8, argv


@pytest.mark.parametrize("backend", ["foo", "NATIVE"])
def test_a_backend_that_there_is_not_is_told_without_pytorch(place: Path, backend: str) -> None:
    commands = [*([verb, *given] for verb, given in GIVEN.items()), ["info"]]
    for argv, (status, _, said, loaded, _) in zip(commands, run(commands, place, SUBQUADRATIC_BACKEND=backend), strict=True):
        assert (status, loaded) == (2, []), argv
        assert "SUBQUADRATIC_BACKEND must be one of 'auto', 'torch', 'triton', 'native', got '" + backend in said
    [(status, *_)] = run([["models"]], place, SUBQUADRATIC_BACKEND=backend)
    assert status == 0


def test_triton_on_a_build_for_cpus_is_told_without_pytorch(place: Path) -> None:
    commands = [[verb, *given] for verb, given in GIVEN.items()]
    environment = {"SUBQUADRATIC_BACKEND": "triton", "TRITON_INTERPRET": ""}
    if find_spec("triton") is not None and not version("torch").endswith("+cpu"):
        pytest.skip("triton may run here")
    for argv, (status, _, said, loaded, _) in zip(commands, run(commands, place, **environment), strict=True):
        assert (status, loaded) == (2, []) and "SUBQUADRATIC_BACKEND=triton needs" in said, argv


def test_what_needs_no_numbers_needs_no_pytorch(place: Path) -> None:
    for argv, (status, output, said, loaded, seconds) in zip(QUICK, run(QUICK, place), strict=True):
        assert (status, said, loaded) == (0, "", []) and output, argv
        assert seconds < 0.5, argv


def test_info_runs_on_shapes_without_the_compiler(place: Path) -> None:
    models = ("performer", "linformer", "fastformer", "feedback_transformer", "perceiver_ar", "gated_linear", "transformer")
    commands = [["info", "--model", model, "--length", "512", "--dim", "64", "--heads", "2", "--depth", "1"] for model in models]
    heavy = ("torch._dynamo", "torch.fx.experimental.symbolic_shapes", "sympy", "triton", "transformers", "matplotlib")
    for argv, (status, output, said, loaded, _) in zip(commands, run(commands, place, heavy), strict=True):
        assert (status, said, loaded) == (0, "", []), argv
        assert "what an option costs" in output
