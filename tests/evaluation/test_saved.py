"""A saved model in its folder, told without its weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from subquadratic.evaluation.saved import find_saved
from subquadratic.evaluation.trained import load_trained
from subquadratic.heads.files import INDEX, WEIGHTS
from subquadratic.heads.language_model import LanguageModel
from subquadratic.models.configs.performer import PerformerConfig


def test_weights_in_several_files_are_a_model(tmp_path: Path) -> None:
    """As transformers writes a large one."""
    model = LanguageModel(PerformerConfig(dim=8, depth=1, heads=2, features=4), vocab_size=11).eval()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    (tmp_path / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, inside in parts.items():
        save_file({name: tensors[name] for name in inside}, tmp_path / file)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {name: file for file, inside in parts.items() for name in inside}}))
    assert find_saved(str(tmp_path)).kind == "causal"
    tokens = torch.randint(0, 11, (1, 5))
    torch.testing.assert_close(load_trained(str(tmp_path)).model(tokens), model(tokens), rtol=0, atol=0)


def test_a_folder_without_weights_is_none(tmp_path: Path) -> None:
    LanguageModel(PerformerConfig(dim=8, depth=1, heads=2, features=4), vocab_size=11).save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="holds no model"):
        find_saved(str(tmp_path))
