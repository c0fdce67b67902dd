"""The first loss of every model and head is that of a uniform guess, and what is saved loads as before."""

import math
from typing import Any

import pytest
import torch
from tests.laws.matrix import configs

import subquadratic as sq

VOCABULARY, CLASSES = 256, 5
WITHIN = 0.05  # nats


def tokens(rows: int = 16) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (rows, 40), generator=torch.Generator().manual_seed(3))


def wide(config: sq.BackboneConfig, dim: int) -> sq.BackboneConfig:
    """The configuration at a width that people use: a token's own logit grows with it."""
    return config.from_dict({**config.to_dict(), "dim": dim, "heads": 2})


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("config", configs())
def test_of_a_language_model(config: sq.BackboneConfig, tied: bool) -> None:
    losses = []
    for seed, dim in enumerate((16, 64, 128)):
        torch.manual_seed(seed)
        model = sq.LanguageModel(wide(config, dim), vocab_size=VOCABULARY, max_length=40, tie_embeddings=tied)
        with torch.no_grad():
            losses.append(float(model.loss(tokens(), mask_probability=1.0)))
    assert abs(sum(losses) / len(losses) - math.log(VOCABULARY)) < WITHIN, losses


@pytest.mark.parametrize("config", configs())
def test_of_a_classifier(config: sq.BackboneConfig) -> None:
    torch.manual_seed(0)
    model = sq.SequenceClassifier(wide(config, 64), vocab_size=VOCABULARY, num_classes=CLASSES, max_length=40)
    with torch.no_grad():
        loss = float(model.loss(tokens(20), torch.arange(20) % CLASSES))
    assert abs(loss - math.log(CLASSES)) < WITHIN


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", ["performer", "linformer", "transformer"])
def test_of_an_encoder_decoder(name: str, tied: bool) -> None:
    from subquadratic.models.config import config_class

    sizes: dict[str, Any] = {"dim": 128, "depth": 2, "heads": 4, **({"max_length": 40} if name == "linformer" else {})}
    encoder = config_class(name)(**sizes, causal=False)
    decoder = config_class(name)(**sizes, causal=True, cross_attention=True)
    torch.manual_seed(0)
    model = sq.EncoderDecoder(encoder, decoder, vocab_size=VOCABULARY, tie_embeddings=tied)
    with torch.no_grad():
        loss = float(model.loss(tokens(), tokens().flip(0)))
    assert abs(loss - math.log(VOCABULARY)) < WITHIN


def test_weights_of_a_model_made_before_are_taken_as_they_are(tmp_path: Any) -> None:
    model = sq.LanguageModel(sq.PerformerConfig(dim=16, depth=1, heads=2), vocab_size=13, tie_embeddings=True)
    torch.nn.init.ones_(model.norm.weight)  # as models were drawn
    model.save_pretrained(tmp_path / "old")
    loaded = sq.LanguageModel.from_pretrained(tmp_path / "old")
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
