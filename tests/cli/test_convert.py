"""`subq convert` from the command line, and what comes out of it."""

from pathlib import Path

import pytest
import torch

import subquadratic as sq
from subquadratic.cli.main import main
from subquadratic.compat.performer_pytorch import PerformerLM


def test_a_published_checkpoint_becomes_a_saved_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import performer_pytorch

    old = performer_pytorch.PerformerLM(num_tokens=256, max_seq_len=32, dim=16, depth=1, heads=2, dim_head=8, causal=True).eval()
    torch.save({"model": performer_pytorch.AutoregressiveWrapper(old).state_dict(), "step": 3}, tmp_path / "old.pt")
    capsys.readouterr()
    convert = ["convert", str(tmp_path / "old.pt"), "--from", "performer_pytorch", "--out", str(tmp_path / "new")]
    assert main(convert) == 0
    printed = capsys.readouterr().out
    assert "is now the saved model" in printed and "causal=True" in printed

    model, tokens = sq.load(tmp_path / "new"), torch.randint(0, 256, (2, 20))
    assert isinstance(model, PerformerLM)
    expected = old(tokens, mask=torch.ones(2, 20, dtype=torch.bool))
    assert (model(tokens) - expected).square().mean().sqrt() < 2e-3 * expected.square().mean().sqrt()

    assert main(convert) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert main([*convert, "--overwrite", "--hints.heads", "4"]) == 2  # the projection's width says two heads of eight
    assert main(["generate", str(tmp_path / "new"), "--prompt", "abc", "--max_new_tokens", "5", "--seed", "1"]) == 0


def test_what_is_wrong_is_said_in_words_of_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import performer_pytorch

    monkeypatch.chdir(tmp_path)
    model = performer_pytorch.PerformerLM(num_tokens=256, max_seq_len=32, dim=16, depth=1, heads=2, dim_head=8, causal=False)
    torch.save(model.state_dict(), "old.pt")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    capsys.readouterr()
    of_performer = ["--from", "performer_pytorch"]
    for argv, message in (
        ([*of_performer, "--out", "new"], "do not tell causal (whether the model was built with causal=True); give --hints.causal VALUE"),
        (["--from", "linformer", "--out", "new"], "convert it with --from performer_pytorch"),
        (["--from", "performer", "--out", "new"], "--from must be one of"),
        ([*of_performer, "--hints.causal", "false", "--out", "full"], "out: full exists and is not an empty folder: choose another, or"),
    ):
        assert main(["convert", "old.pt", *argv]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_converted_model_that_sees_the_future_is_not_scored_as_if_it_did_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastTransformer says nowhere that it is bidirectional."""
    from subquadratic.compat.fast_transformer_pytorch import FastTransformer

    monkeypatch.chdir(tmp_path)
    model = FastTransformer(num_tokens=256, dim=16, max_seq_len=32, depth=1, heads=2, dim_head=8)
    torch.save(model.state_dict(), "old.pt")
    assert main(["convert", "old.pt", "--from", "fast_transformer_pytorch", "--hints.max_seq_len", "32", "--out", "new"]) == 0
    for argv in (["evaluate", "new", "--data", __file__], ["fill", "new", "a [MASK]"], ["generate", "new"]):
        assert main(argv) == 2
        said = capsys.readouterr().err
        assert "bidirectional" in said and "hidden from it" in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("causal", [True, False])
def test_a_model_for_transformers(causal: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    auto = pytest.importorskip("transformers").AutoModelForCausalLM if causal else pytest.importorskip("transformers").AutoModelForMaskedLM
    torch.manual_seed(0)
    model = sq.LanguageModel(sq.PerformerConfig(dim=16, depth=1, heads=2, causal=causal), vocab_size=260).eval()
    model.save_pretrained(tmp_path / "run")
    convert = ["convert", str(tmp_path / "run"), "--to", "huggingface", "--out", str(tmp_path / "out")]
    assert main(convert) == 0
    assert auto.__name__ in capsys.readouterr().out
    theirs, tokens = auto.from_pretrained(tmp_path / "out"), torch.randint(0, 256, (2, 20))
    torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-5, rtol=1e-4)
    assert (theirs.config.pad_token_id, theirs.config.eos_token_id) == (256, 258)
    assert theirs.config.mask_token_id == (None if causal else 259)
    torch.testing.assert_close(sq.load(tmp_path / "out")(tokens), model(tokens))
    assert main(convert) == 2
    assert "out: " in (said := capsys.readouterr().err) and "is not an empty folder" in said


def test_what_transformers_cannot_open_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    import performer_pytorch

    old = performer_pytorch.PerformerLM(num_tokens=256, max_seq_len=32, dim=16, depth=1, heads=2, dim_head=8, causal=True)
    torch.save(performer_pytorch.AutoregressiveWrapper(old).state_dict(), tmp_path / "old.pt")
    assert main(["convert", str(tmp_path / "old.pt"), "--from", "performer_pytorch", "--out", str(tmp_path / "twin")]) == 0
    capsys.readouterr()
    for argv, message in (
        (["--to", "hugging"], "--to must be one of 'huggingface', 'onnx', got 'hugging'"),
        (["--to", "huggingface", "--from", "linformer"], "--from is for checkpoints of published packages"),
        ([], "--from is required, the package of the checkpoint"),
        (["--to", "huggingface"], "which transformers cannot open"),
    ):
        assert main(["convert", str(tmp_path / "twin"), *argv, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "nothing"), "--to", "huggingface", "--out", str(tmp_path / "out")]) == 2
    assert "is not a saved model" in capsys.readouterr().err


def test_a_model_for_onnx_runtime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from subquadratic.export import OnnxModel

    torch.manual_seed(0)
    model = sq.LanguageModel(sq.FastformerConfig(dim=16, depth=1, heads=2, causal=False), vocab_size=260).eval()
    model.save_pretrained(tmp_path / "run")
    convert = ["convert", str(tmp_path / "run"), "--to", "onnx", "--out", str(tmp_path / "out")]
    assert main(convert) == 0
    assert f'OnnxModel.load("{tmp_path / "out"}")' in capsys.readouterr().out
    tokens = torch.randint(0, 256, (2, 20))
    found = OnnxModel.load(tmp_path / "out")(tokens.numpy())
    torch.testing.assert_close(torch.from_numpy(found), model(tokens), atol=1e-4, rtol=1e-4)
    assert main(convert) == 2
    assert "out: " in (said := capsys.readouterr().err) and "--overwrite" in said
    assert main(["convert", str(tmp_path / "run"), "--to", "onnx", "--from", "linformer", "--out", str(tmp_path / "new")]) == 2
    assert "--from is for checkpoints of published packages" in capsys.readouterr().err


@pytest.mark.slow  # as a model does in tests/export/test_onnx.py
def test_a_run_for_onnx_runtime_goes_from_text_to_text(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from tokenizers import Tokenizer

    from subquadratic.export import OnnxModel
    from subquadratic.hf.tokenizers import stock_tokenizer

    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 1, "heads": 2}
    encoder, decoder = sq.PerformerConfig(**sizes, causal=False), sq.TransformerConfig(**sizes, cross_attention=True)
    model = sq.EncoderDecoder(encoder, decoder, vocab_size=260).eval()
    model.save_pretrained(tmp_path / "run")
    assert main(["convert", str(tmp_path / "run"), "--to", "onnx", "--out", str(tmp_path / "out")]) == 0
    assert Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode("né").ids == [110, 195, 169]
    source, start = torch.tensor([list(b"some text")]), torch.tensor([[stock_tokenizer(None, first="bos").bos_token_id]])
    wanted = model.generate(source, start, max_new_tokens=7, temperature=0, eos_token=258)[0, 1:].tolist()
    written = OnnxModel.load(tmp_path / "out").generate_text("some text", max_new_tokens=7)
    assert written == bytes(token for token in wanted if token < 248).decode(errors="replace")


def test_what_onnx_does_not_take_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sq.LanguageModel(sq.PerceiverARConfig(dim=16, depth=1, heads=2, latents=4), vocab_size=260).save_pretrained(tmp_path / "run")
    assert main(["convert", str(tmp_path / "run"), "--to", "onnx", "--out", str(tmp_path / "out")]) == 2
    assert "PerceiverAR is not exported to ONNX" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
