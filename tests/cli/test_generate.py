from pathlib import Path

import pytest
import torch

from subquadratic import LanguageModel, PerformerConfig, TransformerConfig
from subquadratic.cli import generate
from subquadratic.cli.main import main


def model(causal: bool = True, **options: int) -> LanguageModel:
    return LanguageModel(TransformerConfig(dim=16, depth=1, heads=2, causal=causal), vocab_size=260, **options)


def test_characters_of_several_bytes_appear_whole(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    text = "naïve — 漢字 🙂"
    pieces: list[str] = []
    emit = generate._emit
    monkeypatch.setattr(generate, "_emit", lambda part: (pieces.append(part), emit(part)))
    monkeypatch.setattr(generate, "load", lambda path: None)
    monkeypatch.setattr(generate, "stream", lambda *_: iter(bytes([byte]) for byte in text.encode() + b"\xf0\x9f"))
    assert main(["generate", "run", "--prompt", "é"]) == 0
    assert capsysbinary.readouterr().out.decode("utf-8") == f"é{text}\ufffd\n"
    assert "\ufffd" not in "".join(pieces[:-1])


def test_greedy_text_is_what_the_model_gives(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    lm = model().eval()
    lm.save_pretrained(tmp_path)
    assert main(["generate", str(tmp_path), "--prompt", "abc", "--max_new_tokens", "6", "--temperature", "0"]) == 0
    tokens = lm.generate(torch.tensor([list(b"abc")]), max_new_tokens=6, temperature=0.0)[0].tolist()
    end = tokens.index(258) if 258 in tokens else len(tokens)
    assert capsysbinary.readouterr().out.decode() == bytes(token for token in tokens[:end] if token < 256).decode(errors="replace") + "\n"


def test_it_stops_at_the_end_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model()
    monkeypatch.setattr(lm, "stream", lambda *_, **__: iter(torch.tensor([[65], [258], [66]])))
    options = generate.GenerateOptions(run="", prompt="x")
    assert list(generate.stream(lm, options)) == [b"A"]


def test_a_masked_model_and_a_full_context_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(causal=False).save_pretrained(tmp_path / "masked")
    assert main(["generate", str(tmp_path / "masked")]) == 2
    assert "only a causal one" in capsys.readouterr().err
    LanguageModel(PerformerConfig(dim=16, depth=1, heads=2), vocab_size=260, max_length=8).save_pretrained(tmp_path / "short")
    assert main(["generate", str(tmp_path / "short"), "--prompt", "abc", "--max_new_tokens", "9"]) == 2
    assert "max_length=8" in capsys.readouterr().err


def test_a_damaged_model_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    assert main(["generate", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
