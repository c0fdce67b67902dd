"""Law 6: a bad argument is named, with the value got and the values allowed. Nothing is ignored or cut in silence."""

from typing import Any

import pytest
import torch

import subquadratic as sq

from .matrix import BACKBONES, SMALL, configs, inputs, language_model, tokens

BAD: list[tuple[dict[str, Any], str]] = [
    ({"dim": 0}, "dim must be an integer of at least 1, got 0"),
    ({"depth": -1}, "depth must be an integer of at least 1, got -1"),
    ({"heads": 3}, "dim must be divisible by heads"),
    ({"heads": 1.5}, "heads must be an integer"),
    ({"head_dim": 0}, "head_dim must be an integer of at least 1, got 0"),
    ({"dropout": 1.0}, "dropout is a probability"),
    ({"attention_dropout": -0.1}, "attention_dropout is a probability"),
    ({"norm": "layers"}, "norm must be one of 'layer', 'scale', 'rezero', got 'layers'; did you mean 'layer'"),
    ({"positions": "rotery"}, "did you mean 'rotary'"),
    ({"ff_mult": 0}, "ff_mult must be greater than 0"),
    ({"ff_chunks": 0}, "ff_chunks must be an integer of at least 1, got 0"),
    ({"reversible": True, "checkpointing": True}, "reversible"),
    ({"axial_shape": (2, 3), "positions": None}, "axial_shape is for positions='axial'"),
]


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("option", "message"), BAD, ids=str)
def test_options_out_of_range_are_named(name: str, option: dict[str, Any], message: str) -> None:
    kind, needed, _ = BACKBONES[name]
    with pytest.raises(ValueError, match=message):
        kind(**{**SMALL, **needed, **option})


@pytest.mark.parametrize("name", BACKBONES)
def test_unknown_keywords_are_refused(name: str) -> None:
    kind, needed, _ = BACKBONES[name]
    config = kind(**{**SMALL, **needed})
    with pytest.raises(TypeError, match="hiden"):
        kind(**{**SMALL, **needed, "hiden": 1})
    with pytest.raises(ValueError, match="did you mean 'heads'"):
        sq.BackboneConfig.from_dict({**config.to_dict(), "headss": 2})
    with pytest.raises(TypeError):
        config.build()(inputs(1, 4, 16, dtype=torch.float32), masks=None)
    with pytest.raises(TypeError):
        sq.LanguageModel(config, vocab=3)
    with pytest.raises(AttributeError):
        config.dim = 3  # type: ignore[misc]


@pytest.mark.parametrize("config", configs())
def test_wrong_inputs_are_named(config: sq.BackboneConfig) -> None:
    backbone = config.build()
    with pytest.raises(ValueError, match=r"x must be \(batch, length, 16\), got \(2, 5, 8\)"):
        backbone(torch.zeros(2, 5, 8))
    with pytest.raises(ValueError, match="at least one position"):
        backbone(torch.zeros(2, 0, 16))
    model = language_model(config)
    with pytest.raises(ValueError, match="tokens must be at least 0 and less than vocab_size=13, got 13"):
        model(torch.full((1, 4), 13))
    with pytest.raises(ValueError, match="tokens must be integers"):
        model(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="max_length"):
        model(tokens(1, 41))
    assert model(tokens(1, 40)).isfinite().all()
    assert model(tokens(1, 1)).isfinite().all()
    if config.causal:
        with pytest.raises(ValueError, match="max_length"):
            model.generate(tokens(1, 38), max_new_tokens=4)
        assert model.generate(tokens(1, 38), max_new_tokens=3).shape == (1, 41)
        with pytest.raises(ValueError, match="at least 2"):
            model.loss(tokens(1, 1))


@pytest.mark.parametrize("config", configs())
def test_a_context_that_nobody_reads_is_refused(config: sq.BackboneConfig) -> None:
    with pytest.raises((ValueError, TypeError), match=r"cross_attention|context"):
        config.build()(inputs(1, 4, 16, dtype=torch.float32), context=inputs(1, 4, 16, dtype=torch.float32))


def test_an_unknown_model_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'performer'"):
        sq.BackboneConfig.from_dict({"model_type": "preformer", "dim": 8, "depth": 1})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"top_k": 0}, "top_k must be an integer of at least 1"),
        ({"top_p": 0.0}, "top_p must be greater than 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
    ],
)
def test_sampling_options_out_of_range_are_named(option: dict[str, Any], message: str) -> None:
    model = language_model(sq.PerformerConfig(**SMALL))
    with pytest.raises(ValueError, match=message):
        model.generate(tokens(1, 3), **{"max_new_tokens": 2, **option})
