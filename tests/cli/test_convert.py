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
