"""Runs of integers, of a series and of a genome through every verb."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import subquadratic as sq
from subquadratic.cli.main import main
from subquadratic.data import IntegerTokenizer, load_corpus, load_tokenizer
from subquadratic.training.problems.language import references

SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--context", "16", "--max_steps", "2", "--evaluations", "0", "--batch_size", "2"]
NOTES = np.tile([3, 1, 4, 1, 5], 200)
PRICES = 100 + np.cumsum(np.random.default_rng(0).normal(size=1000))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data and of runs on them."""
    folder = tmp_path_factory.mktemp("values")
    np.save(folder / "notes.npy", NOTES)
    NOTES.astype("<u2").tofile(folder / "notes.bin")
    (folder / "prices.csv").write_text("day,close\n" + "".join(f"{day},{price!r}\n" for day, price in enumerate(PRICES.tolist())))
    np.save(folder / "ten.npy", [1, 2, 10])
    (folder / "bad.csv").write_text("close\n1\nx\n")
    (folder / "none.jsonl").write_text('{"w": 1}\n{"w": 2}\n')
    (folder / "genome.fa").write_text(">one\n" + "ACGT\n" * 200)
    for name, argv in {
        "music": ["--data", "notes.npy", "--tokens", "8", "--max_steps", "20", "--learning_rate", "0.01"],
        "masked": ["--data", "notes.bin", "--dtype", "uint16", "--tokens", "8", "--model", "fastformer", "--causal", "false"],
        "levels": ["--data", "prices.csv", "--column", "close", "--bins", "16"],
        "changes": ["--data", "prices.csv", "--column", "close", "--bins", "16", "--difference", "--model", "transformer"],
        "genome": ["--data", "genome.fa", "--headers", "false"],
    }.items():
        place = argv.index("--data") + 1
        argv[place] = str(folder / argv[place])
        assert main(["train", *SMALL, *argv, "--out", str(folder / name)]) == 0
    return folder


def ran(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 2
    return capsys.readouterr().err


def greedy(folder: Path, tokens: list[int], count: int) -> list[int]:
    model = sq.LanguageModel.from_pretrained(folder)
    return model.generate(torch.tensor([tokens]), max_new_tokens=count, temperature=0.0)[0, len(tokens) :].tolist()


@pytest.mark.parametrize("name", ["music", "masked", "levels", "changes"])
def test_a_run_knows_what_reads_its_data(runs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads((runs / name / "run.json").read_text())
    assert facts["corpus"]["tokenizer_digest"] == load_tokenizer(runs / name).digest
    assert "validation_bits_per_byte" not in facts["result"]
    assert all(facts["result"][f"{reference}_bits_per_token"] > 0 for reference in ("unigram", "xz"))
    drawn = (runs / name / "loss.svg").read_text()
    assert all(f"{reference} " in drawn for reference in ("uniform guess", "unigram", "xz"))
    assert "finished" in ran(capsys, "train", "--resume", str(runs / name))
    assert "bits/token" in ran(capsys, "evaluate", str(runs / name))
    assert "parameters" in ran(capsys, "info", str(runs / name), "--length", "16", "--options", "false")
    assert "special" in ran(capsys, "tokenizer", "show", str(runs / name))


def test_a_dry_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ran(capsys, "train", *SMALL, "--data", str(runs / "notes.npy"), "--tokens", "8", "--dry_run")
    assert "900 + 100 values" in out and "integers below 8" in out


def test_an_interrupted_run_goes_on(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(capsys, "train", "--config", str(runs / "changes" / "run.yaml"), "--out", str(tmp_path / "run"), "--save_every", "1", "--keep", "2")
    max((tmp_path / "run" / "checkpoints").iterdir()).rename(tmp_path / "gone")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    del facts["result"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    assert "after step 1" in ran(capsys, "train", "--resume", str(tmp_path / "run"))
    weights = [sq.LanguageModel.from_pretrained(folder).state_dict() for folder in (tmp_path / "run", runs / "changes")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("how", ["prompt", "npy", "bin", "pipe"])
def test_integers_after_integers(
    runs: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "prompt": ["--prompt", "3 1,4 1"],
        "npy": ["--prompt_file", str(tmp_path / "a.npy")],
        "bin": ["--prompt_file", str(tmp_path / "a.bin"), "--dtype", "uint8"],
        "pipe": ["--prompt", "-"],
    }[how]
    np.save(tmp_path / "a.npy", [3, 1, 4, 1])
    (tmp_path / "a.bin").write_bytes(bytes([3, 1, 4, 1]))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"3 1 4 1\n")))
    found = ran(capsys, "generate", str(runs / "music"), *given, "--max_new_tokens", "5", "--temperature", "0")
    expected = [token for token in greedy(runs / "music", [3, 1, 4, 1], 5) if token < 8]
    assert found.split() == [str(token) for token in [3, 1, 4, 1, *expected]]


def test_arrays_out(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new.npy"
    argv = ["generate", str(runs / "music"), "--prompt", "3 1 4", "--max_new_tokens", "5", "--temperature", "0", "--out", str(out)]
    assert ran(capsys, *argv) == ""
    expected = [token for token in greedy(runs / "music", [3, 1, 4], 5) if token < 8]
    assert np.load(out).dtype == np.int64 and np.load(out).tolist() == expected
    assert "--overwrite to replace it" in refused(capsys, *argv)
    ran(capsys, *argv, "--overwrite", "--samples", "3")
    assert np.load(out).tolist() == [expected] * 3
    sample = json.loads(ran(capsys, *argv[:-2], "--format", "json"))
    assert sample["values"] == expected and sample["text"].split() == list(map(str, expected))


def test_a_forecast_is_in_the_units_of_the_data(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bins = load_tokenizer(runs / "changes")
    argv = ["--prompt_file", str(runs / "prices.csv"), "--max_new_tokens", "4", "--temperature", "0", "--out", str(tmp_path / "a.npy")]
    ran(capsys, "generate", str(runs / "changes"), *argv)
    tokens = greedy(runs / "changes", bins.encode(" ".join(map(repr, PRICES[-16:].tolist()))).tolist(), 4)
    expected = PRICES[-1] + np.cumsum(bins.decode_values(tokens))  # type: ignore[attr-defined]
    assert np.load(tmp_path / "a.npy") == pytest.approx(expected[: len(np.load(tmp_path / "a.npy"))])
    said = ran(capsys, "generate", str(runs / "changes"), *argv[:-2], "--echo", "false")
    assert [float(word) for word in said.split()] == pytest.approx(np.load(tmp_path / "a.npy"), rel=1e-5)
    np.save(tmp_path / "recent.npy", PRICES[-16:])  # of another kind than in training: the column is not asked of it
    ran(capsys, "generate", str(runs / "levels"), "--prompt_file", str(tmp_path / "recent.npy"), *argv[2:], "--overwrite")
    assert set(np.load(tmp_path / "a.npy")) <= set(load_tokenizer(runs / "levels").centers)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "interactive"), [("levels", False), ("changes", False), ("music", False), ("levels", True), ("music", True)]
)
def test_a_series_goes_on_as_long_as_asked(
    runs: Path, tmp_path: Path, name: str, interactive: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new.npy"
    argv = ["generate", str(runs / name), "--max_new_tokens", "30", "--temperature", "9"]
    if interactive:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"3 4\n")))
        assert len(ran(capsys, *argv, "--interactive", "--echo", "false").split()) == 30
        return
    assert main([*argv, "--prompt", "3 4", "--samples", "50", "--out", str(out)]) == 0
    assert "ended early" not in capsys.readouterr().err
    assert np.load(out).shape == (50, 30) and not np.isnan(np.load(out)).any() and (np.load(out) != -1).all()


def test_forecasts_are_drawn_from_what_was_learned(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def drawn(name: str, *more: str) -> list[Any]:
        argv = ["--prompt", "3 4", "--max_new_tokens", "20", "--seed", "1", "--overwrite", "--out", str(tmp_path / "a.npy")]
        ran(capsys, "generate", str(runs / name), *argv, *more)
        return np.load(tmp_path / "a.npy").tolist()

    assert drawn("levels") == drawn("levels", "--temperature", "1") != drawn("levels", "--temperature", "0.8")
    assert drawn("music") == drawn("music", "--temperature", "0.8")
    assert "--temperature 1 --out forecast.npy" in (runs / "changes" / "README.md").read_text()


def test_which_of_several_series_is_the_prompt(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "many.npy", np.arange(80.0).reshape(4, 20))
    (tmp_path / "many.jsonl").write_text("[1, 2]\n[3, 4]\n")
    (tmp_path / "gaps.csv").write_text("close\n1\n\n2\nNA\n")
    for name, said in {
        "many.npy": "prompt      the last of 4 sequences ({}, row 3); for another one, give a file of it alone",
        "many.jsonl": "prompt      the last of 2 sequences ({}:2); for",
        "gaps.csv": "prompt      skipped: 1 row without a value",
    }.items():
        capsys.readouterr()
        assert main(["generate", str(runs / "levels"), "--prompt_file", str(tmp_path / name), "--max_new_tokens", "2"]) == 0
        assert said.format(tmp_path / name) in capsys.readouterr().err
    capsys.readouterr()
    assert main(["generate", str(runs / "levels"), "--prompt_file", str(runs / "prices.csv"), "--max_new_tokens", "2"]) == 0
    assert "sequences" not in capsys.readouterr().err


def test_several_documents_of_integers_may_end(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "songs.jsonl").write_text("[1, 2]\n[2, 1, 2]\n" * 300)
    out = tmp_path / "new.npy"
    assert main(["train", *SMALL, "--data", str(tmp_path / "songs.jsonl"), "--tokens", "3", "--out", str(tmp_path / "songs")]) == 0
    argv = ["--max_new_tokens", "30", "--temperature", "9", "--samples", "50", "--seed", "0"]
    assert main(["generate", str(tmp_path / "songs"), "--prompt", "1", *argv, "--out", str(out)]) == 0
    ended = int((np.load(out) == -1).any(axis=1).sum())
    found = re.search(r"50 x \d+ int64; (\d+) of 50 rows ended early", capsys.readouterr().err)
    assert found is not None and 0 < ended <= int(found[1])
    tokens = json.loads(ran(capsys, "generate", str(tmp_path / "songs"), "--prompt", "1", *argv[:-4], "--format", "json", "--log_probs"))
    assert {piece["token"] for piece in tokens["log_probs"]} <= {0, 1, 2, load_tokenizer(tmp_path / "songs").eos_token}


@pytest.mark.parametrize("name", ["levels", "changes"])
def test_a_series_is_measured_in_the_units_of_the_data(runs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(ran(capsys, "evaluate", str(runs / name), "--format", "json"))["score"]["forecast"]
    held_out = PRICES[900:]
    assert found["count"] == 99
    assert found["last_value_mae"] == pytest.approx(np.abs(np.diff(held_out)).mean())
    assert found["last_value_rmse"] == pytest.approx(np.sqrt((np.diff(held_out) ** 2).mean()))
    assert 0 < found["mae"] <= found["rmse"] * 1.2
    assert "MAE" in ran(capsys, "evaluate", str(runs / name), "--max_tokens", "50")


def test_other_data_with_what_they_need(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "later.npy", PRICES[:50])
    (tmp_path / "later.csv").write_text("open\n" + "\n".join(map(str, PRICES[:50])))
    assert "50 tokens" in ran(capsys, "evaluate", str(runs / "changes"), "--data", str(tmp_path / "later.npy"))
    assert "has no field 'close'" in refused(capsys, "evaluate", str(runs / "changes"), "--data", str(tmp_path / "later.csv"))
    assert "MAE" in ran(capsys, "evaluate", str(runs / "changes"), "--data", str(tmp_path / "later.csv"), "--column", "open")
    (tmp_path / "other.jsonl").write_text("[1, 2, 9]\n")
    assert "holds 9 at position 2" in refused(capsys, "evaluate", str(runs / "music"), "--data", str(tmp_path / "other.jsonl"))


def test_masked_integers_are_filled_in(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ran(capsys, "fill", str(runs / "masked"), "3 1 [MASK:2] 5 3").split()
    assert [found[0], found[1], *found[4:]] == ["3", "1", "5", "3"] and all(0 <= int(word) < 8 for word in found)
    assert "only a bidirectional one" in refused(capsys, "fill", str(runs / "changes"), "1 [MASK]")


def test_a_saved_model_of_integers_says_nothing_of_itself(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    sq.LanguageModel(sq.PerformerConfig(dim=16, depth=1, heads=2), vocab_size=8).save_pretrained(tmp_path / "saved")
    saved, tokens = str(tmp_path / "saved"), ["--tokens", "8"]
    expected = greedy(tmp_path / "saved", [3, 1], 4)
    found = ran(capsys, "generate", saved, *tokens, "--prompt", "3 1", "--max_new_tokens", "4", "--temperature", "0")
    assert [int(word) for word in found.split()] == [3, 1, *expected]
    assert "999 tokens right" in ran(capsys, "evaluate", saved, *tokens, "--data", str(runs / "notes.npy"))
    assert "reads integers below 8, and not integers below 9" in refused(capsys, "generate", str(runs / "music"), "--tokens", "9")
    assert "reads bytes" in refused(capsys, "evaluate", str(runs / "genome"), *tokens)
    assert "the model" in refused(capsys, "generate", saved, "--tokens", "9", "--prompt", "3")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["generate", "music", "--prompt", "3 9"], "prompt: the text holds 9 at position 1, and the model reads integers from 0 to 7\n"),
        (["generate", "music", "--prompt", "3 x"], "prompt: the text holds 'x' at position 1, which is not an integer\n"),
        (["generate", "levels", "--prompt", "3 inf"], "prompt: the text holds inf at position 1, and a series may not hold"),
        (["generate", "music", "--prompt_file", "notes.md"], "prompt_file: no such file or folder: notes.md\n"),
        (["generate", "levels", "--prompt_file", "bad.csv"], "prompt_file: bad.csv:3 holds 'x' at position 0, which is not a number\n"),
        (["fill", "masked", "1 [MASK] x"], "text: the text holds 'x' at position 0, which is not an integer\n"),
        (["evaluate", "music", "--data", "ten.npy"], "data: ten.npy holds 10 at position 2, and the model reads integers from 0 to 7\n"),
        (["train", "--data", "none.jsonl", "--bins", "4", "--column", "v"], "name the one that holds the column with --column\n"),
        (["generate", "music", "--stop", "3"], "stop is for text"),
        (["generate", "music", "--out", "a.txt"], "out must name an .npy file"),
        (["generate", "music", "--out", "a.npy", "--log_probs"], "leave out interactive, log_probs and format"),
        (["generate", "music", "--overwrite"], "overwrite is for --out"),
        (["generate", "music", "--column", "x"], "column is for --prompt_file"),
        (["generate", "music", "--prompt_length", "0"], "prompt_length must be at least 1"),
        (["generate", "changes"], "needs a value to begin with"),
        (["generate", "changes", "--interactive"], "forecasts changes from the last value of a prompt"),
        (["generate", "genome", "--out", "a.npy"], "out is for models of integers and numbers"),
        (["predict", "music", "--data", "notes.npy"], "is a LanguageModel"),
        (["train", "--data", "notes.npy"], "--tokens reads integers from it, --bins numbers"),
        (["train", "--data", "notes.npy", "--tokens", "5"], "holds 5 at position 4, and tokens must be from 0 to 4"),
        (["train", "--tokens", "5"], "tokens says what the data holds: name a file"),
        (["train", "--data", "notes.npy", "--tokens", "8", "--bins", "4"], "tokens reads integers, and bins is for other data"),
        (["train", "--data", "notes.npy", "--tokens", "8", "--label", "x"], "tokens reads integers, and label is for other data"),
        (["train", "--data", "prices.csv", "--bins", "8", "--text", "close"], "the column is named by --column"),
        (["train", "--data", "notes.npy", "--tokens", "8", "--difference"], "difference is for --bins"),
        (["train", "--data", "notes.npy", "--column", "x"], "column is for data of integers or numbers: give --tokens or --bins"),
        (["train", "--data", "notes.npy", "--tokenizer", "music"], "reads integers below 8, and no text: give --tokens or --bins"),
        (["train", "--task", "copy", "--tokens", "8"], "tokens is not for --task"),
        (["train", "--data", "notes.npy", "--bins", "1"], "bins must be at least 2"),
        (["train", "--data", "notes.npy", "--headers", "false"], "headers is for FASTA files"),
    ],
)
def test_what_cannot_be_meant_is_said(
    runs: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    more: list[Any] = [*SMALL, "--out", "unwritten"] if argv[0] == "train" else []
    assert re.search(re.escape(message), refused(capsys, *argv, *more))
    assert not (runs / "unwritten").exists()


def test_a_series_of_one_integer_has_no_entropy(tmp_path: Path) -> None:
    np.save(tmp_path / "ones.npy", np.ones(200, dtype=int))
    found = references(load_corpus(tmp_path / "ones.npy", tokenizer=IntegerTokenizer(2)))
    assert f"{found['unigram_bits_per_token']:.2f}" == "0.00"
