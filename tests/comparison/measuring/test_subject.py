"""Models are rebuilt for a length, and what they will take is known before."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import subquadratic as sq
from subquadratic.comparison.measuring.subject import build_subject, config_for, expected_bytes, extrapolated, room_for

SIZES = {"dim": 8, "depth": 1, "heads": 1}


def test_weights_of_positions_are_made_for_the_length() -> None:
    spec = {"source": "ours", "config": sq.LinformerConfig(**SIZES, max_length=7, slots=2, positions="axial", axial_shape=(1, 7)).to_dict()}
    model = build_subject(spec, length=50, vocab_size=11)
    assert model.max_length == model.config.max_length == room_for(50)
    assert model(torch.zeros(1, 50, dtype=torch.int64)).shape == (1, 50, 11)
    free = {"source": "ours", "config": sq.FastformerConfig(**SIZES).to_dict()}
    assert build_subject(free, length=50, vocab_size=11).max_length is None
    assert config_for(free, 83) == sq.FastformerConfig(**SIZES)


def test_models_of_others_can_be_measured(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "def build(vocab_size, length):\n    net = nn.Embedding(vocab_size, vocab_size)\n    net.room = length\n    return net\n"
    )
    spec = {"source": "file", "path": str(file), "function": "build"}
    model = build_subject(spec, length=50, vocab_size=11)
    assert model.config.causal and model.net.room == room_for(50)
    assert float(model.loss(torch.zeros(1, 51, dtype=torch.int64)).detach()) > 0
    assert expected_bytes(spec, length=50, vocab_size=11, measured={}) is None
    assert expected_bytes(spec, length=8, vocab_size=11, measured={2: 10, 4: 30}) == pytest.approx(90, rel=1e-6)


def test_expected_memory_is_that_of_a_step_without_an_optimizer() -> None:
    spec = {"source": "ours", "config": sq.TransformerConfig(dim=64, depth=2, heads=2).to_dict()}
    short, long = (expected_bytes(spec, length=length, vocab_size=11, measured={}) for length in (64, 128))
    assert short is not None and long is not None
    weights = sum(4 * parameter.numel() for parameter in build_subject(spec, length=64, vocab_size=11).parameters())
    assert 2 * weights < short < long


@given(power=st.floats(0.0, 3.0), factor=st.integers(1, 1000))
def test_extrapolation_lies_between_linear_and_quadratic(power: float, factor: int) -> None:
    measured = {length: factor * length**power for length in (3, 512, 1024)}
    assert extrapolated(measured, 4096) == pytest.approx(measured[1024] * 4 ** min(max(power, 1.0), 2.0), rel=1e-6)
    assert extrapolated({512: 8.0}, 1024) == 16.0
    with pytest.raises(ValueError, match="measured"):
        extrapolated({}, 4)
