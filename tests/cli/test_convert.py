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

    model, tokens = sq.LanguageModel.from_pretrained(tmp_path / "new"), torch.randint(0, 256, (2, 20))
    assert isinstance(model, PerformerLM)
    expected = old(tokens, mask=torch.ones(2, 20, dtype=torch.bool))
    assert (model(tokens) - expected).square().mean().sqrt() < 2e-3 * expected.square().mean().sqrt()

    assert main(convert) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert main([*convert, "--overwrite", "--hints.heads", "4"]) == 2  # the projection's width says two heads of eight
    assert main(["generate", str(tmp_path / "new"), "--prompt", "abc", "--max_new_tokens", "5", "--seed", "1"]) == 0
