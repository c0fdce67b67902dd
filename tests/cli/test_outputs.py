"""Every verb that writes: what is there already and not of its making stays, and what cannot be written is told before the work."""

import json
from pathlib import Path

import pytest
import torch

import subquadratic as sq
from subquadratic.cli.main import main
from subquadratic.heads.files import replace_files

SMALL = {"dim": 8, "depth": 1, "heads": 1}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a text, a model of ours, a published checkpoint, and a project of somebody else's."""
    from linformer import LinformerLM

    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("some words and others\n" * 30)
    sq.LanguageModel(sq.FastformerConfig(**SMALL), vocab_size=260).save_pretrained("model")
    torch.save(LinformerLM(num_tokens=256, dim=8, seq_len=16, depth=1, heads=1, k=4).state_dict(), "old.pt")
    Path("project").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "results.json", "table.md", "train_time.png"):
        Path("project", name).write_text("{}")
    Path("a_file").write_text("mine")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CONVERT = ["convert", "old.pt", "--from", "linformer", "--hints.heads", "1"]
TOKENIZER = ["tokenizer", "train", "--data", "text.txt"]
EVALUATE = ["evaluate", "model", "--data", "text.txt"]
BENCH = ["bench", "--cases", "op/favor/train/48"]
NO_FOLDERS = ("a_file", "a_file/x", "/proc/nothing/x", "x" * 300, "link")
NO_FILES = ("a_file/x.svg", "none/x.svg", "/proc/x.svg", "model", "x" * 300)
PLACES = [
    *((verb, "out", where) for verb in (CONVERT, TOKENIZER, BENCH) for where in NO_FOLDERS),
    *((EVALUATE, name, where) for name in ("out", "by_position") for where in NO_FILES),
    ([*CONVERT, "--overwrite"], "out", "project"),
    ([*CONVERT, "--overwrite"], "out", "run"),
    ([*TOKENIZER, "--overwrite"], "out", "project"),
    ([*TOKENIZER, "--overwrite"], "out", "model"),
    ([*BENCH, "--overwrite"], "out", "project"),
    (EVALUATE, "out", "a_file"),
    (EVALUATE, "out", "text.txt"),
    (EVALUATE, "out", "model/config.json"),
    (EVALUATE, "by_position", "mine.svg"),
    ([*EVALUATE, "--by_position", "both.svg"], "out", "both.svg"),
    (["evaluate", "model", "--data", "project"], "out", "project/score.json"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "option", "where"), PLACES, ids=[f"{a[0]}-{o}-{w[:20]}" for a, o, w in PLACES])
def test_nothing_of_anybody_elses_is_lost(
    argv: list[str], option: str, where: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "link").symlink_to(place / "missing")
    (place / "mine.svg").write_text("<svg/>")
    (place / "run").mkdir()
    (place / "run" / "run.yaml").write_text("model: performer\n")
    before = contents(place)
    capsys.readouterr()
    assert main([*argv, f"--{option}", where]) == 2
    said = capsys.readouterr()
    assert f"{option}" in said.err and said.err.count("\n") == 1 and said.out == ""
    assert contents(place) == before


def test_what_a_verb_wrote_itself_it_replaces(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main([*EVALUATE, "--out", "score.json", "--by_position", "loss.svg"]) == 0
        assert main([*CONVERT, "--out", "new", "--overwrite"]) == 0
        assert main([*TOKENIZER, "--out", "words", "--vocab_size", "280", "--overwrite"]) == 0
    Path("words", "notes.txt").write_text("mine")
    assert main([*TOKENIZER, "--out", "words", "--vocab_size", "270", "--overwrite"]) == 0
    assert Path("words", "notes.txt").read_text() == "mine"


def test_measurements_are_not_dropped_unasked(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subquadratic.benchmark.run.PROBE", {"side": 64, "numbers": 1 << 16, "tries": 1})
    argv = [*BENCH, "--dim", "64", "--depth", "1", "--heads", "2", "--rounds", "1", "--memory", "false", "--out", "results"]
    assert main(argv) == 0
    before = contents(place / "results")
    capsys.readouterr()
    assert main(argv) == 2
    assert "holds 1 results; continue with --resume, replace with --overwrite" in capsys.readouterr().err
    assert main([*argv, "--resume", "--overwrite"]) == 2
    assert contents(place / "results") == before
    assert main([*argv, "--overwrite"]) == 0
    assert main(["bench", "--plot", "results/results.json", "--out", "project"]) == 2
    assert Path("project", "table.md").read_text() == "{}"


@pytest.mark.parametrize("left", ["config.json", "model.safetensors"])
def test_a_model_is_not_saved_over_another_programs(left: str, tmp_path: Path) -> None:
    model = sq.LanguageModel(sq.FastformerConfig(**SMALL), vocab_size=7)
    (tmp_path / left).write_text(json.dumps({"architectures": ["BertModel"]}))
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="holds no model of this package"):
        model.save_pretrained(tmp_path)
    assert contents(tmp_path) == before
    with pytest.raises(ValueError, match="path is empty"):
        model.save_pretrained("")
    (tmp_path / left).unlink()
    for _ in range(2):
        model.save_pretrained(tmp_path)
    sq.SequenceClassifier(sq.FastformerConfig(**SMALL, causal=False), vocab_size=7, num_classes=2).save_pretrained(tmp_path)
    assert sq.SequenceClassifier.from_pretrained(tmp_path).num_classes == 2


def test_files_that_belong_together_change_together(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").write_text("old")

    def fail(file: Path) -> None:
        file.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replace_files({tmp_path / "a": lambda file: file.write_text("new"), tmp_path / "b": fail})
    assert contents(tmp_path) == {"a": b"old", "b": b"old"}
