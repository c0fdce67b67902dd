"""The command as a user meets it: help without waiting, and one clear line for whatever is wrong."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from subquadratic.cli.main import VERBS, main
from subquadratic.cli.text_io import fitted


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
    (["convert", "empty.txt", "--out", "x"], "--from is required"),
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


VERBS_AND_PLACES = [
    (["train"], "out"), (["train"], "data"), (["train"], "tokenizer"), (["train"], "weights"), (["train"], "resume"), (["train"], "config"),
    (["generate", "full"], "prompt_file"), (["generate"], "RUN"), (["fill"], "RUN"), (["evaluate"], "RUN"), (["info"], "RUN"),
    (["evaluate", "full"], "out"), (["evaluate", "full"], "by_position"), (["evaluate", "full"], "data"), (["bench"], "out"),
    (["bench"], "plot"), (["tokenizer", "train"], "out"), (["tokenizer", "show"], "TOKENIZER"),
    (["convert", "full.pt", "--from", "linformer"], "out"), (["convert", "--from", "linformer", "--out", "x"], "FILE"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "option"), VERBS_AND_PLACES, ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_an_empty_name_is_not_the_folder_one_stands_in(
    argv: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("model: performer\n")
    for empty in ("", " "):
        assert main([*argv, empty] if option.isupper() else [*argv, f"--{option}", empty]) == 2
        said = capsys.readouterr().err
        assert "the name is empty" in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


HUGE = [
    *(("train", name, str(10**30)) for name in ("dim", "depth", "heads", "context", "batch_size", "accumulation", "max_steps", "keep")),
    *(("train", name, str(10**30)) for name in ("seed", "evaluations", "validation_tokens", "patience", "save_every", "fields.features")),
    *(("train", name, value) for name in ("learning_rate", "weight_decay", "clip", "warmup", "ema") for value in ("nan", "-.inf", "1e400")),
    *(("train", "dim", value) for value in ("-" + "9" * 30, "9" * 5000, "1e30", "nan")),
    *(("train", "fields.dropout", value) for value in (".nan", ".inf")),
    *(("info", name, str(10**30)) for name in ("dim", "depth", "heads", "length", "vocab_size", "batch_size")),
    *(("bench", name, str(10**30)) for name in ("dim", "depth", "heads", "rounds", "threads")),
    *(("train", f"fields.{name}", str(2**63 - 1)) for name in ("features", "local_window", "ff_mult", "ff_chunks", "head_dim")),
    *(("info", name, str(2**63 - 1)) for name in ("depth", "batch_size", "fields.features")),
    *(("bench", name, str(2**63 - 1)) for name in ("rounds", "threads")),
    *(("train", name, value) for name, value in (("evaluations", "10001"), ("seed", str(2**70)), ("budget", "9" * 400 + "h"))),
]


@pytest.mark.parametrize(("verb", "option", "value"), HUGE, ids=lambda value: value[:20])
def test_numbers_that_nothing_takes_are_one_clear_line(verb: str, option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, f"--{option}", value]) == 2
    said = capsys.readouterr().err
    assert option in said and said.count("\n") == 1


CONFIGS = {
    "binary.yaml": (b"\0\1\xff", "is not UTF-8 text"),
    "nul.yaml": (b"dim: 3\0", "NUL"),
    "utf16.yaml": ("dim: 3".encode("utf-16"), "is not UTF-8 text"),
    "empty.yaml": (b"", "is empty"),
    "comment.yaml": (b"# nothing\n", "is empty"),
    "list.yaml": (b"- dim\n", "holds a list"),
    "list.json": (b"[1]", "holds a list"),
    "word.yaml": (b"dim\n", "holds a text"),
    "twice.yaml": (b"dim: 1\ndim: 2\n", "gives dim twice, again in line 2"),
    "twice.json": (b'{"dim": 1,\n\t"dim": 2}', "gives dim twice"),
    "inner.yaml": (b"fields: {kernel: relu, kernel: exp}\n", "gives kernel twice"),
    "tag.yaml": (b"!!python/object/apply:os.getcwd []\n", "is not valid YAML"),
    "two.yaml": (b"dim: 1\n---\ndim: 2\n", "is not valid YAML"),
    "open.yaml": (b"dim: [1", "is not valid YAML"),
    "number.yaml": (b"1: 2\n", "has the option 1"),
    "self.yaml": (b"config: other.yaml\n", "names another file"),
    "out.yaml": (b"out: ''\n", "out: the name is empty"),
    "deep.yaml": (b"[" * 5000, "config: deep.yaml"),
    "nothing.yaml": (b"dim:\n", "line 1: dim has no value"),
    "nothing_else.yaml": (b"depth: 2\ndim:\nheads: 2\n", "line 2: dim has no value"),
    "bare.yaml": (b"{dim, depth}", "dim has no value"),
    "inner_nothing.yaml": (b"fields:\n  kernel:\n", "line 2: kernel has no value"),
    "large.yaml": (b"dim: [" + b"1, " * 10_001 + b"]", "stands for more than 10,000 values"),
    "aliases.yaml": (b"a: &a [1, 2]\nb: [" + b"*a, " * 5000 + b"]", "stands for more than 10,000 values"),
    "merged.yaml": (b"a: &a {b: 1, c: 2}\nd: {<<: [" + b"*a, " * 5000 + b"]}", "stands for more than 10,000 values"),
    "circle.yaml": (b"fields: &a {kernel: *a}", "stands for more than 10,000 values"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_is_none_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = CONFIGS[name]
    (tmp_path / name).write_bytes(content)
    assert main(["train", "--config", name]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_folder_is_no_configuration_and_json_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from subquadratic.cli.options import parse
    from subquadratic.training import TrainOptions

    assert main(["train", "--config", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    for text in ('{"dim": 64, "fields": {"kernel": "relu"}}', '{\n\t"dim": 64,\n\t"fields": {"kernel": "relu"}\n}'):
        (tmp_path / "run.json").write_text(text)
        options = parse(TrainOptions, ["--config", str(tmp_path / "run.json")], verb="train", examples="")
        assert (options.dim, options.fields) == (64, {"kernel": "relu"})


@pytest.mark.parametrize(
    "argv", [["--help"], [], ["--version"], ["train", "--help"], ["tokenizer"], ["tokenizer", "show", "bytes"], ["models"]]
)
def test_a_reader_that_leaves_early_is_no_error(argv: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "subquadratic", *argv], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == (0 if argv and argv != ["tokenizer"] else 2)


def test_an_output_that_is_full_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "subquadratic", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "subq: cannot write to standard output: No space left on device\n")


SAYING = [
    ["--help"], ["--version"], *([verb, "--help"] for verb in VERBS), ["tokenizer"], ["tokenizer", "show", "bytes"], ["models"],
    ["info", "--model", "performer"], ["info", "--model", "performer", "--format", "json"], ["bench", "--list"],
    ["train", "--print_config"],
]  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("argv", SAYING, ids=" ".join)
def test_whatever_cannot_be_printed_is_told_and_is_no_bad_input(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        status = main(argv)
    said = capsys.readouterr().err
    assert status == 1
    assert said.endswith("cannot write to standard output: No space left on device\n") and said.count("\n") == 1


def test_a_configuration_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As from `<(...)` and /dev/stdin: what was read is gone."""
    from subquadratic.cli.options import parse
    from subquadratic.training import TrainOptions

    filled = "dim: 64\n" + "# filling\n" * 6000
    for text in (filled, "dim: 64\nout: null\n", "\ufeffdim: 64\r\n", '{\n\t"dim": 64}', "# only\n---\ndim: 64"):
        reading, writing = os.pipe()
        os.write(writing, text.encode())
        os.close(writing)
        options = parse(TrainOptions, ["--config", f"/dev/fd/{reading}"], verb="train", examples="")
        os.close(reading)
        assert options == TrainOptions(dim=64)
    assert main(["train", "--config", "/dev/zero"]) == 2
    assert "has more than 1,048,576 bytes" in capsys.readouterr().err


def test_no_error_is_longer_than_somebody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    long = "x" * 20_000
    Path("value.yaml").write_text(f"dim: {long}\n")
    Path("key.yaml").write_text(f"{long}: 1\n")
    Path("list.yaml").write_text(f"dim: [{'x, ' * 5000}]\n")
    Path("long.csv").write_text(",".join(f"column{i}" for i in range(5000)) + "\n1\n")
    for argv in (
        ["train", "--dim", long], ["train", f"--{long}"], [long], ["train", "--config", "value.yaml"], ["train", "--config", "key.yaml"],
        ["train", "--config", "list.yaml"], ["train", "--data", "long.csv"], ["train", "--budget", long], ["train", "--model", long],
    ):  # fmt: skip
        assert main(argv) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and len(said) < 1400
    assert "--text" in said or "model" in said


def test_memory_that_is_not_there_is_one_line_of_our_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    def grab(argv: object) -> int:
        torch.empty(1 << 50, dtype=torch.uint8)
        return 0

    monkeypatch.setattr("subquadratic.cli.models.run", grab)
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "subq models: out of memory: there was no room for another 1,125,899.9 GB\n"


def test_flags_win_over_the_file_wherever_it_stands(tmp_path: Path) -> None:
    from subquadratic.cli.options import parse
    from subquadratic.training import TrainOptions

    (tmp_path / "run.yaml").write_text("dim: 64\ndepth: 2\nfields: {kernel: relu}\n")
    argv = ["--dim", "32", "--config", str(tmp_path / "run.yaml"), "--overwrite", "--causal=false", "--budget", "90"]
    options = parse(TrainOptions, argv, verb="train", examples="")
    assert (options.dim, options.depth, options.fields) == (32, 2, {"kernel": "relu"})
    assert (options.overwrite, options.causal, options.budget) == (True, False, "90")


@pytest.mark.parametrize("text", ["123", "null", "a: b", "'q'", "-x", "--old", "[1", "é\n{", "true", ""])
def test_text_reaches_the_verb_as_it_was_typed(text: str) -> None:
    from subquadratic.cli.generate_options import GenerateOptions
    from subquadratic.cli.options import parse

    assert parse(GenerateOptions, ["run", "--prompt", text], verb="generate", examples="", positional="run").prompt == text


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "jsonargparse.py").write_text("raise ModuleNotFoundError('gone', name='jsonargparse')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run("train", env={**os.environ, "PYTHONPATH": path})
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


def test_train_then_generate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*argv: object, status: int = 0) -> tuple[str, str]:
        assert main(list(map(str, argv))) == status
        return capsys.readouterr()

    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    small = ["--dim", 16, "--depth", 1, "--heads", 2, "--context", 32, "--max_steps", 3, "--evaluations", 1]
    shown, errors = said("train", "--data", text, "--out", tmp_path / "run", *small)
    assert errors == ""
    for part in ("computes ", "PyTorch ", "data ", "model ", "step ", "bits/byte", "tokens/s", "validation ", "sample ", "subq generate"):
        assert part in shown
    assert json.loads((tmp_path / "run" / "run.json").read_text())["result"]["steps"] == 3

    assert "--overwrite" in said("train", "--data", text, "--out", tmp_path / "run", *small, status=2)[1]

    argv = ["generate", tmp_path / "run", "--prompt", "thé ", "--max_new_tokens", 20, "--seed", 7]
    first = said(*argv)[0]
    assert first.startswith("thé ")
    assert run(*argv).stdout == first, "the same in a new process"
    said("generate", tmp_path / "run", "--max_new_tokens", 5)


def test_hyphens_stand_for_underscores() -> None:
    from subquadratic.cli.options import parse
    from subquadratic.training.options import TrainOptions

    argv = ["--max-steps", "7", "--skip-bad-rows", "--fields.local-window=8", "--task-options.max-depth", "2"]
    options = parse(TrainOptions, argv, verb="train", examples="")
    assert (options.max_steps, options.skip_bad_rows, options.fields, options.task_options) == (
        7, True, {"local_window": 8}, {"max_depth": 2},
    )  # fmt: skip


def test_every_option_of_train_is_under_one_heading(capsys: pytest.CaptureFixture[str]) -> None:
    import dataclasses

    from subquadratic.cli.train import GROUPS
    from subquadratic.training.options import TrainOptions

    assert sorted(name for names in GROUPS.values() for name in names) == sorted(field.name for field in dataclasses.fields(TrainOptions))
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"\n{title}:\n") for title in GROUPS]
    assert places == sorted(places)
    for names, place, following in zip(GROUPS.values(), places, [*places[1:], len(shown)], strict=True):
        assert all(f"\n  --{name} " in shown[place:following] for name in names)


@pytest.mark.parametrize("columns", [60, 100])
def test_help_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for argv in ([], *([verb] for verb in VERBS), ["tokenizer", "train"], ["tokenizer", "show"]):
        assert main([*argv, "--help"]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if len(line) > columns]
        assert [line for line in lines if not re.search(r"\S {2,}\S.* {2,}\S", line)] == [], argv  # but for tables


def test_a_long_example_goes_on_in_the_next_line() -> None:
    example = """  subq generate runs/a --prompt "class A" --temperature 0    greedy: the most likely token"""
    assert fitted(example, 100) == [example]
    assert fitted(example, 88) == [example.replace("0    g", "0  g")]
    found = fitted(example, 40)
    assert max(map(len, found)) <= 40
    command, remark = [line for line in found if "#" not in line], [line for line in found if "#" in line]
    assert shlex.split(" ".join(line.removesuffix("\\") for line in command)) == shlex.split(example.split("    ")[0])
    assert " ".join(line.replace("#", "").strip() for line in remark) == "greedy: the most likely token"


def test_a_field_of_a_model_given_as_an_option_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--estimator", "dense"]) == 2
    assert "it is a field of a model's configuration: give --fields.estimator VALUE" in capsys.readouterr().err
