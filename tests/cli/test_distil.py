"""`subq distil`: the command around the distillation."""

import json
import os
import signal
from pathlib import Path

import pytest
from tests.hf.distil.tiny import bert_in, text_in

from subquadratic.cli.main import main

QUICK = ["--batch_size", "8", "--length", "16", "--features", "8", "--longest", "256"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distil")
    bert_in(folder / "bert")
    text_in(folder / "text")
    return folder


def test_a_checkpoint_and_its_report(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    argv = ["distil", str(place / "bert"), "--data", str(place / "text"), "--out", str(out), *QUICK, "--steps", "6"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    for word in ("swapped     cosine", "distilled   cosine", "one attention layer alone", "saved       "):
        assert word in printed
    content = json.loads((out / "distil.json").read_text())
    assert sum(content["steps"].values()) == 6
    assert content["options"]["features"] == 8
    lengths = [row["length"] for row in content["costs"]["attention"]]
    assert lengths[:2] == [128, 256]
    assert all(row["seconds"] > 0 and row["exact_seconds"] > 0 for row in content["costs"]["attention"])
    assert content["files"] == sorted(content["files"], key=lambda name: (name == "distil.json", name))

    assert main(argv) == 2
    assert "give --overwrite" in capsys.readouterr().err
    (out / "mine.txt").touch()
    assert main([*argv, "--overwrite"]) == 2
    assert "mine.txt was not written by subq distil" in capsys.readouterr().err


def test_ctrl_c_saves_what_there_is(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def interrupt_once(*, step: int, **_: object) -> None:
        if not seen:
            os.kill(os.getpid(), signal.SIGINT)
        seen.append(step)

    monkeypatch.setattr("subquadratic.cli.distil._shown", lambda display: interrupt_once)
    out = tmp_path / "out"
    argv = ["distil", str(place / "bert"), "--data", str(place / "text"), "--out", str(out), *QUICK, "--steps", "100000"]
    assert main(argv) == 130
    assert 0 < len(seen) < 100
    assert json.loads((out / "distil.json").read_text())["interrupted"]
    assert (out / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_model_whose_attention_cannot_be_replaced_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.hf.distil.tiny import gpt2_in

    gpt2_in(place / "gpt2")
    capsys.readouterr()
    argv = ["distil", str(place / "gpt2"), "--data", str(place / "text"), "--out", str(tmp_path / "out"), "--attention", "linformer"]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("subq distil: ")
    assert "causal" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_copy_or_no_numbers_are_one_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from tests.hf.distil.tiny import gpt2_in, tokenizer_in
    from transformers import BertModel, RobertaConfig, RobertaModel

    gpt2_in(tmp_path / "gpt2")
    broken = BertModel.from_pretrained(place / "bert")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    other = RobertaModel(RobertaConfig(vocab_size=broken.config.vocab_size, max_position_embeddings=66, **sizes))
    other.save_pretrained(tmp_path / "roberta")
    with torch.no_grad():
        broken.encoder.layer[1].output.dense.bias.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "nan")
    for name in ("nan", "roberta"):
        tokenizer_in(tmp_path / name)
    common = ["--data", str(place / "text"), "--steps", "1", "--longest", "64", "--quiet"]
    for original, options, wanted in (
        (place / "bert", ["--weights", str(tmp_path / "gpt2")], "no copy of the model"),
        (place / "bert", ["--weights", str(tmp_path / "roberta")], "no copy of the model"),
        (place / "bert", ["--weights", str(tmp_path / "nan")], "encoder.layer.1.output.dense.bias"),
        (tmp_path / "nan", [], "holds NaN"),
    ):
        capsys.readouterr()
        assert main(["distil", str(original), "--out", str(tmp_path / "out"), *common, *options]) == 2
        said = capsys.readouterr().err
        assert wanted in said and said.strip().splitlines()[-1].startswith("subq distil: ") and "Traceback" not in said
    assert main(["distil", str(place / "bert"), "--out", str(place / "bert" / "inside"), *common]) == 2
    assert "inside the folder of the original" in capsys.readouterr().err
    assert not (place / "bert" / "inside").exists() and not (tmp_path / "out").exists()
