"""Equal parameters."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subquadratic.comparison.contestants import contestant
from subquadratic.comparison.options import CompareOptions, target_parameters
from subquadratic.comparison.sizing import TOLERANCE, sized
from subquadratic.heads.language_model import LanguageModel
from subquadratic.heads.quantization import parameter_count
from subquadratic.training import MODELS, TrainOptions
from subquadratic.training.configuration import backbone_config


def count(options: TrainOptions) -> int:
    with torch.device("meta"):
        return parameter_count(LanguageModel(backbone_config(options), vocab_size=260, tie_embeddings=True))


QUICK = ("performer", "linformer")  # one that is asked for a width alone, and one whose weights grow with its length


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in MODELS])
@settings(deadline=None, max_examples=4)
@given(parameters=st.integers(200_000, 20_000_000), length=st.sampled_from([128, 512, 2048]))
def test_every_model_has_the_parameters_asked_for(name: str, parameters: int, length: int) -> None:
    entry = contestant(CompareOptions(length=length), name, None)
    try:
        found = sized(entry.options, parameters, count)
    except ValueError as error:
        assert name == "linformer", error  # alone in having weights for each position
        assert 4 * 64 * length > parameters / 4
        return
    assert abs(count(found) / parameters - 1) <= TOLERANCE
    assert found.depth == entry.options.depth and found.dim is not None and found.heads is not None and found.dim % found.heads == 0


def test_what_cannot_be_says_what_is_nearest() -> None:
    entry = contestant(CompareOptions(), "performer", None)
    with pytest.raises(ValueError, match="cannot have 1,000 parameters: the nearest is"):
        sized(entry.options, 1000, count)


def test_models_without_a_feed_forward_size_are_still_counted() -> None:
    entry = contestant(CompareOptions(), "transformer", None)
    wide = dataclasses.replace(entry.options, fields={**entry.options.fields, "ff_mult": 1.0})
    assert abs(count(sized(wide, 1_000_000, count)) / 1_000_000 - 1) <= TOLERANCE


def test_what_is_nearest_can_be_asked_for() -> None:
    entry = contestant(CompareOptions(), "performer", None)
    with pytest.raises(ValueError, match="give --parameters") as caught:
        sized(entry.options, 1000, count)
    advised = target_parameters(str(caught.value).rpartition(" ")[2])
    assert advised is not None
    assert abs(count(sized(entry.options, advised, count)) / advised - 1) <= TOLERANCE
