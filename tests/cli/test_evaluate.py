"""`subq evaluate` as a user meets it: on runs, saved models, texts, rows, tasks; and with bad input."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

import subquadratic as sq
from subquadratic.cli.main import main
from subquadratic.data import load_corpus, load_examples, make_task

SIZES: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2}
WORDS = "the quick brown fox jumps over the lazy dog\n"


def write_run(folder: Path, model: Any, options: dict[str, Any], facts: dict[str, Any]) -> None:
    model.save_pretrained(folder)
    (folder / "run.yaml").write_text(yaml.safe_dump(options))
    (folder / "run.json").write_text(json.dumps({"corpus": facts}))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text, runs on it, and whatever could be wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUBQ_TRACEBACK", raising=False)
    torch.manual_seed(0)
    (tmp_path / "text.txt").write_text(WORDS * 40)
    (tmp_path / "other.txt").write_text("some other text of no length to speak of\n" * 9)
    options = {"data": "text.txt", "context": 33}
    digest = load_corpus("text.txt").digest
    for name, config in {
        "performer": sq.PerformerConfig(**SIZES),
        "transformer": sq.TransformerConfig(**SIZES),
        "masked": sq.FastformerConfig(**SIZES, causal=False),
    }.items():
        write_run(tmp_path / name, sq.LanguageModel(config, vocab_size=260), options, {"digest": digest})
    sq.LanguageModel(sq.FastformerConfig(**SIZES), vocab_size=256).save_pretrained(tmp_path / "saved")
    return tmp_path


def score(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["evaluate", *argv, "--format", "json"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    assert printed.err == ""
    return json.loads(printed.out)


def by_hand(folder: str, text: bytes, context: int) -> float:
    """Bits per byte over windows of which each predicts all its bytes but the first, and the last one, at the end, those that are left."""
    model = sq.LanguageModel.from_pretrained(folder)
    tokens = torch.tensor(list(text))
    windows = torch.cat((tokens.unfold(0, context, context - 1), tokens[None, -context:]))
    with torch.no_grad():
        nats = F.cross_entropy(model(windows[:, :-1]).transpose(1, 2), windows[:, 1:], reduction="none")
    left = len(text) - 1 - (len(windows) - 1) * (context - 1)
    return float(torch.cat((nats[:-1].flatten(), nats[-1, context - 1 - left :])).mean()) / math.log(2)


def test_a_run_on_its_own_validation_text(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (WORDS * 40).encode()
    held_out = text[len(text) - len(text) // 10 :]
    found = score(capsys, "transformer")
    assert found["data"]["side"] == "validation side"
    assert found["score"]["how"] == "windows of 33 tokens"
    assert found["score"]["predicted"] == len(held_out) - 1
    assert found["score"]["bits_per_byte"] == pytest.approx(by_hand("transformer", held_out, 33), rel=1e-5)
    assert found["score"]["bits_per_byte"] == pytest.approx(found["score"]["bits_per_token"], rel=1e-12)  # a byte is a token
    streamed = score(capsys, "performer")
    assert streamed["score"]["predicted"] == len(held_out) - 1
    assert streamed["score"]["bits_per_byte"] == pytest.approx(by_hand("performer", held_out, len(held_out)), rel=1e-5)
    assert streamed["score"]["state_bytes"] > 0
    again = score(capsys, "performer", "--data", str(place / "text.txt"))
    assert again["score"]["loss"] == streamed["score"]["loss"]
    assert "only the validation side" in again["notes"][0]


def test_another_text_counts_whole(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = score(capsys, "performer", "--data", "other.txt")
    size = len((place / "other.txt").read_bytes())
    assert found["data"]["side"] == "all of it"
    assert found["score"]["text_bytes"] == size  # the first byte too: it follows the beginning of a document
    assert score(capsys, "performer", "--data", "other.txt", "--max_tokens", "100")["score"]["predicted"] == 100
    assert score(capsys, "saved", "--data", "other.txt")["score"]["predicted"] == size - 1  # knows no beginning
    masked = score(capsys, "masked", "--data", "other.txt", "--seed", "1")
    assert masked == {**score(capsys, "masked", "--data", "other.txt", "--seed", "1"), "score": masked["score"]}
    other = score(capsys, "masked", "--data", "other.txt", "--seed", "2")
    assert masked["score"]["loss"] != other["score"]["loss"], "other tokens are hidden together"
    for name, *options in (("masked",), ("transformer",), ("performer",), ("performer", "--context", "20")):
        assert score(capsys, name, "--data", "other.txt", *options)["score"]["predicted"] == size, "the same tokens for every model"


def test_what_is_printed_is_written_whole_and_fits(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["evaluate", "performer", "--data", "other.txt", "--out", "score.json", "--by_position", "loss.svg"]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[:3]] == ["model", "data", "read"]
    head = next(line for line in lines if line.startswith("tokens before"))
    assert {len(line) for line in lines[lines.index(head) + 1 :]} == {len(head)}
    written = json.loads((place / "score.json").read_text())
    assert f"{written['score']['bits_per_byte']:.4f} bits/byte" in "\n".join(lines)
    assert "<svg" in (place / "loss.svg").read_text()


def test_a_changed_text_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (place / "text.txt").open("a") as file:
        file.write("more")
    assert "has changed" in score(capsys, "performer")["notes"][0]


def test_a_classifier_and_an_encoder_decoder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "abc" * (1 + i % 5) + str(i), "kind": "xyz"[i % 3], "answer": "cba" * (1 + i % 2)} for i in range(40)]
    with (place / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "kind", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    examples = load_examples("rows.csv", label="kind", max_length=9)
    config = sq.FastformerConfig(**SIZES, causal=False)
    classifier = sq.SequenceClassifier(config, vocab_size=260, num_classes=3)
    facts = {"digest": examples.digest, "labels": ["x", "y", "z"]}
    write_run(place / "classes", classifier, {"data": "rows.csv", "label": "kind", "context": 9}, facts)
    found = score(capsys, "classes")
    assert found["notes"] == [f"{examples.truncated:,} rows were cut to 9 tokens"]
    assert found["data"]["rows"] == len(examples.validation) == np.sum(found["score"]["confusion"])
    assert main(["evaluate", "classes"]) == 0
    assert "precision" in capsys.readouterr().out
    (place / "more.jsonl").write_text('{"text": "b", "kind": "z"}\n{"text": "c", "kind": "y"}\n')
    other = score(capsys, "classes", "--data", "more.jsonl")
    assert [sum(row) for row in other["score"]["confusion"]] == [0, 1, 1]

    decoder = sq.TransformerConfig(**SIZES, cross_attention=True)
    pairs = sq.EncoderDecoder(sq.TransformerConfig(**SIZES, causal=False), decoder, vocab_size=260)
    write_run(place / "pairs", pairs, {"data": "rows.csv", "target": "answer"}, {})
    found = score(capsys, "pairs")
    assert found["score"]["predicted"] > 0
    assert 0 <= found["score"]["exact"] <= found["score"]["accuracy"] <= 1
    assert main(["evaluate", "pairs"]) == 0
    assert "target tokens right" in capsys.readouterr().out


def test_a_task(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = make_task("copy", length=16, seed=3, symbols=8)
    model = sq.LanguageModel(sq.TransformerConfig(**SIZES), vocab_size=task.vocab_size)
    write_run(place / "task", model, {"task": "copy", "context": 16, "seed": 3, "task_options": {"symbols": 8}}, {})
    found = score(capsys, "task")["score"]
    known = sum(int(task.validation[i]["scored"].sum()) for i in range(len(task.validation)))
    assert (found["predicted"], found["bits_per_byte"]) == (known, None)
    assert main(["evaluate", "task"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert not any("bits/byte" in line for line in lines)
    for argv, message in ((["--data", "text.txt"], "learned the task copy"), (["--context", "8"], "context is for texts")):
        assert main(["evaluate", "task", *argv]) == 2
        assert message in capsys.readouterr().err


def test_a_full_disk_costs_only_the_file(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("subquadratic.heads.files.replace_file", full)
    assert main(["evaluate", "performer", "--out", "score.json"]) == 1
    printed = capsys.readouterr()
    assert "bits/byte" in printed.out
    assert printed.err == (
        "subq evaluate: out: cannot write score.json: No space left on device; the score was printed, files there stay as they were\n"
    )


BAD = [
    (["missing"], "no such folder: missing"),
    (["text.txt"], "is a file"),
    (["empty"], "holds no model"),
    (["performer", "--data", "missing.txt"], "no such file or folder: missing.txt"),
    (["performer", "--data", "nothing.txt"], "nothing.txt is empty"),
    (["performer", "--data", "byte.txt", "--context", "8"], "too short"),
    (["saved"], "give --data PATH"),
    (["performer", "--context", "1"], "context must be at least 2, got 1"),
    (["performer", "--batch_size", "0"], "batch_size must be at least 1"),
    (["performer", "--max_tokens", "1"], "max_tokens must be at least 2"),
    (["performer", "--reset", "sometimes"], "one of auto, documents, never, windows"),
    (["performer", "--contxt", "8"], "did you mean --context?"),
    (["performer", "--context", "8", "--reset", "never"], "context is for --reset windows"),
    (["transformer", "--reset", "never"], "reset must be 'windows'"),
    (["performer", "--label", "kind"], "label is for a SequenceClassifier"),
    (["performer", "--out", "no/such/score.json"], "there is no folder no/such"),
    (["performer", "--out", "empty"], "is a folder"),
    (["performer", "--out", "/dev/null"], "is not a regular file"),
    (["performer", "--by_position", "loss.png"], "must name an .svg file"),
    (["performer", "--out", "score.csv"], "out must name a .json file, got 'score.csv'"),
    (["damaged"], "damaged or cut short"),
    (["garbled"], "run.yaml is damaged"),
    (["nan"], "loss is nan"),
    (["small"], "the model in small knows 100"),
    (["saved", "--data", "several"], "less than vocab_size=256"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input_is_one_clear_line(argv: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "nothing.txt").touch()
    (place / "byte.txt").write_text("a")
    (place / "empty").mkdir()
    (place / "several").mkdir()
    for name in "abcdefgh":
        (place / "several" / name).write_text(f"text {name}")
    (place / "performer" / "model.safetensors").rename(place / "weights")
    weights = (place / "weights").read_bytes()
    (place / "performer" / "model.safetensors").write_bytes(weights)
    for name in ("damaged", "garbled"):
        (place / name).mkdir()
        for file in ("config.json", "model.safetensors", "run.yaml"):
            (place / name / file).write_bytes((place / "performer" / file).read_bytes())
    (place / "damaged" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (place / "garbled" / "run.yaml").write_text("data: [unclosed")
    options = {"data": "text.txt", "context": 8}
    write_run(place / "small", sq.LanguageModel(sq.FastformerConfig(**SIZES), vocab_size=100), options, {})
    broken = sq.LanguageModel(sq.FastformerConfig(**SIZES), vocab_size=260)
    with torch.no_grad():
        broken.embedding.table.weight.fill_(torch.nan)
    write_run(place / "nan", broken, options, {})
    before = sorted(place.rglob("*"))
    assert main(["evaluate", *argv]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("subq evaluate: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert sorted(place.rglob("*")) == before


def test_a_folder_that_cannot_be_loaded_is_told_alike_by_all_that_load_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sq.LanguageModel(sq.FastformerConfig(dim=8, depth=1, heads=1), vocab_size=260).save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    odd = json.dumps({"format": 1, "class": "Oracle" * 100})
    for name, content, message in (
        ("model.safetensors", whole[:100], "cannot be loaded"),
        ("config.json", odd.encode(), "which is not a model of this package"),
    ):
        (tmp_path / name).write_bytes(content)
        told = []
        for argv in (["evaluate", str(tmp_path), "--data", __file__], ["generate", str(tmp_path)], ["fill", str(tmp_path), "a [MASK]"]):
            assert main(argv) == 2
            told.append(capsys.readouterr().err.removeprefix(f"subq {argv[0]}: "))
        assert told[0] == told[1]
        assert told[2] == told[0] or "only a bidirectional one can fill in" in told[2]  # which is told before weights are read
        assert message in told[0]
        assert told[0].count("\n") == 1
        assert len(told[0]) < 600


def test_a_score_that_cannot_be_printed_is_in_the_file_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sq.LanguageModel(sq.FastformerConfig(**SIZES), vocab_size=260).save_pretrained(place / "saved")
    (place / "a.txt").write_text(WORDS)
    monkeypatch.setattr("sys.stdout", None)
    assert main(["evaluate", "saved", "--data", "a.txt", "--out", "score.json"]) == 1
    assert capsys.readouterr().err == "subq evaluate: there is no standard output to write to\n"
    assert json.loads((place / "score.json").read_text())["score"]["predicted"] == len(WORDS)


def test_weights_in_8_bits(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exact, held = score(capsys, "performer"), score(capsys, "performer", "--quantize", "int8")
    assert held["model"] == exact["model"] + ", int8"
    assert 0 < abs(held["score"]["bits_per_byte"] - exact["score"]["bits_per_byte"]) < 0.02
    sq.load("saved", quantize="int8").save_pretrained("small")
    whole = score(capsys, "saved", "--quantize", "int8", "--data", "text.txt")
    assert score(capsys, "small", "--data", "text.txt")["score"]["loss"] == whole["score"]["loss"]
