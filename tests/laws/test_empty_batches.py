"""A batch of no rows is a batch: it goes wherever one of several rows goes, and its loss is 0."""

from typing import Any

import pytest
import torch

import subquadratic as sq
from subquadratic.core.backend import use_backend
from subquadratic.generation import fill
from subquadratic.kernels.native.library import why_not

from .matrix import configs
from .streaming import causal_configs

NOTHING = torch.zeros(0, 10, dtype=torch.long)
PADDING = torch.zeros(0, 10, dtype=torch.bool)
BACKENDS = ["torch", pytest.param("auto", marks=pytest.mark.skipif(bool(why_not()), reason="there is no compiler"))]


def heads(config: sq.BackboneConfig) -> tuple[Any, Any]:
    return (
        sq.LanguageModel(config, vocab_size=13, max_length=40),
        sq.SequenceClassifier(config, vocab_size=13, num_classes=3, max_length=40),
    )


def gradients_are_zero(model: torch.nn.Module) -> bool:
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return len(found) > 0 and not any(bool(gradient.any()) for gradient in found)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask", [None, PADDING], ids=["no mask", "mask"])
@pytest.mark.parametrize("config", configs())
def test_forward_backward_and_loss(config: sq.BackboneConfig, mask: torch.Tensor | None, backend: str) -> None:
    with use_backend(backend):
        backbone, x = config.build(), torch.zeros(0, 10, config.dim, requires_grad=True)
        y = backbone(x, mask=mask)
        assert y.shape == (0, min(10, getattr(config, "latents", 10)), config.dim)
        y.sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape
        model, classifier = heads(config)
        assert model(NOTHING, mask=mask).shape == (*y.shape[:2], 13)
        assert classifier(NOTHING, mask=mask).shape == (0, 3)
        for head, loss in (
            (model, model.loss(NOTHING, mask)),
            (classifier, classifier.loss(NOTHING, torch.zeros(0, dtype=torch.long), mask)),
        ):
            assert float(loss.detach()) == 0.0
            loss.backward()
            assert gradients_are_zero(head)
        with torch.no_grad():
            assert float(model.loss(NOTHING, mask)) == 0.0
        nats, right, tokens = model.token_losses(NOTHING, mask, **({} if config.causal else {"masked": PADDING}))
        assert nats.shape == right.shape == tokens.shape == (0,)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("config", causal_configs(cross=False))
def test_streams(config: sq.BackboneConfig, backend: str, gradients: bool) -> None:
    with use_backend(backend), torch.set_grad_enabled(gradients):
        for head in heads(config):
            state = head.init_state(0)
            for size in (1, 1, 4, 1):
                for mask in (None, PADDING[:, :size]):
                    y, state = head.extend(NOTHING[:, :size], state, mask=mask)
                    assert y.shape[0] == 0
            if gradients:
                y.sum().backward()
            assert state.select([]).tensors()[0].shape[0] == 0


@pytest.mark.parametrize("config", configs(causal=True))
def test_generation(config: sq.BackboneConfig) -> None:
    model, prompt = heads(config)[0].eval(), NOTHING[:, :4]
    with use_backend("auto"):
        assert model.generate(prompt, max_new_tokens=8).shape == (0, 12)
        out, scores = model.generate(
            prompt, mask=PADDING[:, :4], max_new_tokens=8, samples=2, top_k=3, top_p=0.9, repetition_penalty=1.2, return_log_probs=True
        )
        assert out.shape == (0, 12) and scores.shape == (0, 8)
        assert model.generate(prompt, max_new_tokens=8, eos_token=3).shape[0] == 0
        assert all(step.shape == (0,) for step in model.stream(prompt, max_new_tokens=3, temperature=0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("decoder", causal_configs(cross=True))
def test_encoder_and_decoder(decoder: sq.BackboneConfig, backend: str) -> None:
    encoder = sq.PerformerConfig(dim=16, depth=1, heads=2, features=8, causal=False)
    model = sq.EncoderDecoder(encoder, decoder, vocab_size=13, max_length=40)
    with use_backend(backend):
        assert model(NOTHING, NOTHING[:, :5], source_mask=PADDING).shape == (0, 5, 13)
        loss = model.loss(NOTHING, NOTHING, source_mask=PADDING, target_mask=PADDING)
        assert float(loss.detach()) == 0.0
        loss.backward()
        assert model.generate(NOTHING, NOTHING[:, :1], max_new_tokens=4).shape == (0, 5)


def test_nothing_to_fill_in_is_said() -> None:
    config = sq.PerformerConfig(dim=16, depth=1, heads=2, features=8, causal=False)
    with pytest.raises(ValueError, match="masked must mark at least one token"):
        fill(sq.LanguageModel(config, vocab_size=13), NOTHING, PADDING)
