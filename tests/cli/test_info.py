"""`subq info`: true numbers, lines that fit, and clear errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import subquadratic as sq
from subquadratic.cli.main import main
from subquadratic.costs.info import doubling, option_rows
from subquadratic.models.config import model_types

SMALL = ["--dim", "32", "--depth", "1", "--heads", "2", "--length", "300"]


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    status = main(["info", *argv])
    printed = capsys.readouterr()
    assert (status, printed.err) == (0, "")
    assert max(map(len, printed.out.splitlines())) <= 100
    return printed.out


def numbers(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["info", *argv, "--format", "json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", sorted(set(model_types()) - {"feedback_transformer"}))
def test_every_model_has_its_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--model", name, *SMALL, "--options", "false")
    assert "\n   300 " in text
    assert ("exact attention" in text) == (name != "transformer")
    assert "\nhere        PyTorch " in text


def test_the_numbers_are_those_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    plain = ["--fields.token_shift", "false", "--fields.ff_glu", "false", "--fields.ff_mult", "4"]  # as the configuration has it
    found = numbers(capsys, "--model", "fastformer", *SMALL, *plain, "--options", "false")
    model = sq.LanguageModel(sq.FastformerConfig(dim=32, depth=1, heads=2), vocab_size=260, tie_embeddings=True)
    assert found["training"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["lengths"][-1]["state_bytes"] == model.init_state(1).nbytes()
    exact = sq.LanguageModel(sq.TransformerConfig(dim=32, depth=1, heads=2), vocab_size=260, tie_embeddings=True).eval()
    with torch.no_grad():
        _, state = exact.extend(torch.zeros(1, 299, dtype=torch.int64), exact.init_state(1))
    assert found["exact_attention"][-1]["state_bytes"] == state.nbytes()
    assert found["cheaper_from"]["state_bytes"] == 256
    masked = numbers(capsys, "--model", "fastformer", *SMALL, "--causal", "false", "--options", "false")
    assert masked["lengths"][0]["state_bytes"] is None


def test_what_options_cost_is_what_they_add() -> None:
    config = sq.LinformerConfig(dim=32, depth=2, heads=2, max_length=256, slots=16)
    rows = {(row.name, str(row.after)): row for row in option_rows(config, vocab_size=260)}
    assert rows["depth", "4"].flops > 0.8
    assert rows["ff_mult", "8.0"].parameters > 0.2
    assert rows["checkpointing", "True"].activation_bytes < -0.2 < 0.1 < rows["checkpointing", "True"].flops
    plain = sum(parameter.numel() for parameter in sq.LanguageModel(config, vocab_size=260, tie_embeddings=True).parameters())
    shared = sq.LanguageModel(config.replace(share="layer"), vocab_size=260, tie_embeddings=True)
    assert rows["share", "layer"].parameters == pytest.approx(sum(p.numel() for p in shared.parameters()) / plain - 1)


def test_options_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--model", "transformer", *SMALL[:6], "--length", "64")
    assert "what an option costs" in text
    assert "\nwindow 64 " in text


def test_a_saved_model_by_its_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a path as long as this one would not fit the line
    config = sq.LinformerConfig(dim=16, depth=1, heads=2, max_length=100, slots=8, causal=False)
    sq.SequenceClassifier(config, num_classes=3).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()  # nothing of it is read
    found = numbers(capsys, str(tmp_path))
    assert found["length"] == 100
    assert found["lengths"][0]["state_bytes"] is None
    assert "SequenceClassifier" in shown(capsys, ".")


def test_a_model_saved_in_8_bits_is_told_as_in_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = sq.LanguageModel(sq.PerformerConfig(dim=16, depth=1, heads=2), vocab_size=7)
    model.save_pretrained(tmp_path / "a")
    sq.quantize_(model).save_pretrained(tmp_path / "b")
    asked = ("--length", "64", "--options", "false")
    first, second = (numbers(capsys, str(tmp_path / name), *asked) for name in "ab")
    assert first["lengths"] == second["lengths"] and first["length"] == 64


def test_lengths_double() -> None:
    assert doubling(1000) == [256, 512, 1000]
    assert doubling(256) == [256]
    assert doubling(2) == [2]


BAD = [
    (["--model", "perfomer"], "did you mean 'performer'?"),
    (["--length", "1"], "length must be at least 2, got 1"),
    (["--length", "long"], "--length must be an integer"),
    (["--dim", "30", "--heads", "4"], "dim must be divisible by heads"),
    (["--dim", "6", "--heads", "2"], "head_dim must be even"),
    (["--fields.featurs", "9"], "did you mean 'features'?"),
    (["--model", "perceiver_ar", "--causal", "false"], "causal must be True"),
    (["--model", "linformer", "--fields.max_length", "100", "--length", "200"], "max_length"),
    (["missing"], "no such folder: missing"),
    (["file"], "file is a file; name the folder it is in"),
    (["huge"], "run: the model in huge cannot be loaded: Storage size calculation overflowed"),
    (["odd"], "run: the model in odd cannot be loaded: dim must be an integer"),
    (["--dim", "4000000000"], "this model is too large for any machine"),
    (["empty"], "no config.json"),
    (["empty", "--dim", "8"], "dim is for a new model"),
    (["garbled"], "not valid JSON"),
    (["--lenght", "8"], "did you mean --length?"),
    (["--format", "yaml"], "one of text, json"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input_is_one_clear_line(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUBQ_TRACEBACK", raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbled").mkdir()
    (tmp_path / "garbled" / "config.json").write_text("{")
    (tmp_path / "file").touch()
    for name, dim in (("huge", 1 << 32), ("odd", "wide")):
        (tmp_path / name).mkdir()
        config = {"model_type": "fastformer", "dim": dim, "depth": 1, "heads": 1}
        content = {"format": 1, "class": "LanguageModel", "config": config, "vocab_size": 9}
        (tmp_path / name / "config.json").write_text(json.dumps(content))
    assert main(["info", *argv]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("subq info: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
