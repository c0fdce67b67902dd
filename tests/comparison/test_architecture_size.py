"""Architectures of transformers are made as large as the models they are compared with."""

from pathlib import Path

import pytest
import torch

from subquadratic.comparison.architecture_size import sized_architecture
from subquadratic.comparison.foreign import ForeignModel
from subquadratic.comparison.looking_ahead import check_causal
from subquadratic.comparison.sizing import TOLERANCE
from subquadratic.heads.quantization import parameter_count

from .architectures import NAMES, architecture
from .conftest import Maker


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("parameters", [60_000, 400_000])
def test_as_many_parameters_as_asked_for(name: str, parameters: int, tmp_path: Path) -> None:
    spec = architecture(name, tmp_path)
    found = sized_architecture(spec, parameters, vocab_size=260, length=32)
    model = ForeignModel(found, vocab_size=260, length=32)
    assert abs(parameter_count(model) / parameters - 1) <= TOLERANCE
    assert model.net.config.num_hidden_layers == 2 and model.net.config.num_attention_heads == 4
    check_causal(model, name=name, vocab_size=260, length=32)
    model.save_pretrained(tmp_path / "saved")
    tokens = torch.randint(0, 260, (1, 9))
    torch.testing.assert_close(ForeignModel.from_pretrained(tmp_path / "saved")(tokens), model.eval()(tokens))
    assert sized_architecture(spec, parameter_count(ForeignModel(spec, vocab_size=260, length=32)), vocab_size=260, length=32) == spec


def test_what_has_its_own_size_says_so(comparing: Maker, tmp_path: Path) -> None:
    from subquadratic.comparison.preparing import prepare

    spec = architecture("llama", tmp_path)
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\ndef build(vocab_size): return nn.Embedding(vocab_size, vocab_size)\n")
    made = comparing("performer", model=f"{file}:build,{spec['path']}", parameters="100k")
    prepare(made)
    entries = {entry.name: entry for entry in made.comparison.entries}
    assert entries["performer"].size_off is None and entries["llama"].size_off is None
    assert entries["net:build"].size_off == pytest.approx(260**2 / 100_000 - 1)
    shown = made.display.inner.stream.getvalue()  # type: ignore[attr-defined]
    assert "note        net:build is not of equal size: 32.4% fewer parameters than the 100,000 of the others" in shown
