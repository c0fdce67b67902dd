"""A saved model in its folder, told without its weights."""

from pathlib import Path

import pytest
import torch
from tests.shards import split_weights

from subquadratic.evaluation.saved import find_saved
from subquadratic.evaluation.trained import load_trained
from subquadratic.heads.files import WEIGHTS
from subquadratic.heads.language_model import LanguageModel
from subquadratic.models.configs.performer import PerformerConfig


def test_weights_in_several_files_are_a_model(tmp_path: Path) -> None:
    """As transformers writes a large one."""
    model = LanguageModel(PerformerConfig(dim=8, depth=1, heads=2, features=4), vocab_size=11).eval()
    model.save_pretrained(tmp_path)
    split_weights(tmp_path)
    assert find_saved(str(tmp_path)).kind == "causal"
    tokens = torch.randint(0, 11, (1, 5))
    torch.testing.assert_close(load_trained(str(tmp_path)).model(tokens), model(tokens), rtol=0, atol=0)


def test_a_folder_without_weights_is_none(tmp_path: Path) -> None:
    LanguageModel(PerformerConfig(dim=8, depth=1, heads=2, features=4), vocab_size=11).save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="holds no model"):
        find_saved(str(tmp_path))
