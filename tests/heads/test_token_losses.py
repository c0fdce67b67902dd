"""`token_losses` gives one by one what `loss` averages, and `scored` chooses among them."""

import pytest
import torch
from tests.laws.matrix import configs, language_model, tokens
from torch import Tensor

import subquadratic as sq


def padded(rows: int = 3, length: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    mask = torch.rand(rows, length, generator=generator) < 0.7
    return tokens(rows, length), mask, torch.rand(rows, length, generator=generator) < 0.5


@pytest.mark.parametrize("config", configs(causal=True))
def test_the_loss_is_their_mean(config: sq.BackboneConfig) -> None:
    model = language_model(config)
    x, mask, scored = padded()
    for arguments in ({}, {"scored": scored}, {"mask": mask}, {"mask": mask, "scored": scored}):
        nats, right, predicted = model.token_losses(x, **arguments)
        assert nats.shape == right.shape == predicted.shape
        torch.testing.assert_close(nats.mean(), model.loss(x, **arguments))


def test_scored_tokens_are_those_asked_for() -> None:
    model = language_model(sq.TransformerConfig(dim=16, depth=1, heads=2))
    x, mask, scored = padded()
    _, _, predicted = model.token_losses(x, mask, scored=scored)
    wanted = []
    for row in range(len(x)):
        real = [(int(t), bool(s)) for t, m, s in zip(x[row], mask[row], scored[row], strict=True) if m]
        wanted += [token for token, counts in real[1:] if counts]  # the first has nothing before it
    assert predicted.tolist() == wanted


def test_unscored_tokens_are_read_but_have_no_gradient_of_their_own() -> None:
    model = language_model(sq.TransformerConfig(dim=16, depth=1, heads=2))
    x, _, _ = padded()
    scored = torch.zeros_like(x, dtype=torch.bool)
    scored[:, 10] = True
    before = model.loss(x, scored=scored)
    changed = x.clone()
    changed[:, 11:] = (x[:, 11:] + 1) % 13
    assert torch.equal(before, model.loss(changed, scored=scored))
    changed = x.clone()
    changed[:, 3] = (x[:, 3] + 1) % 13
    assert not torch.equal(before, model.loss(changed, scored=scored))


def test_bidirectional_models_need_to_know_what_is_hidden() -> None:
    model = language_model(sq.TransformerConfig(dim=16, depth=1, heads=2, causal=False))
    x, mask, scored = padded()
    with pytest.raises(ValueError, match="masked is required"):
        model.token_losses(x)
    nats, right, predicted = model.token_losses(x, mask, masked=scored & mask)
    logits = model(x, mask=mask, masked=scored & mask)[scored & mask]
    assert torch.equal(predicted, x[scored & mask])
    torch.testing.assert_close(nats, torch.nn.functional.cross_entropy(logits, predicted, reduction="none"))
    assert torch.equal(right, logits.argmax(-1) == predicted)


def test_masked_training_guesses_scored_tokens_only() -> None:
    model = language_model(sq.TransformerConfig(dim=16, depth=1, heads=2, causal=False))
    x, _, _ = padded()
    scored = torch.zeros_like(x, dtype=torch.bool)
    scored[:, 4] = True
    nats, _, _ = model.token_losses(x, masked=scored)
    torch.testing.assert_close(model.loss(x, scored=scored), nats.mean())


def test_a_token_out_of_range_is_told_even_where_it_is_only_predicted() -> None:
    model = language_model(sq.TransformerConfig(dim=16, depth=1, heads=2))
    x = tokens(2, 8)
    x[1, -1] = 13
    for mask in (None, torch.ones(2, 8, dtype=torch.bool)):
        with pytest.raises(ValueError, match="less than vocab_size=13"):
            model.loss(x, mask)
        with pytest.raises(ValueError, match="less than vocab_size=13"):
            model.token_losses(x, mask)


def test_a_wrong_shape_is_told() -> None:
    model = language_model(sq.TransformerConfig(dim=16, depth=1, heads=2))
    with pytest.raises(ValueError, match="scored"):
        model.loss(tokens(2, 8), scored=torch.ones(2, 7, dtype=torch.bool))
