"""`count_predictions` is how many tokens or rows `loss` is the mean of, so that losses of parts add up to the loss of the whole."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.matrix import configs, language_model
from torch import Tensor

import subquadratic as sq

CONFIGS = configs()
SIZES: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2}


def test_rows_without_a_label_or_a_target_weigh_nothing() -> None:
    x, mask = torch.ones(3, 6, dtype=torch.int64), torch.arange(6) < torch.tensor([6, 1, 0])[:, None]
    classifier = sq.SequenceClassifier(sq.FastformerConfig(**SIZES, causal=False), vocab_size=5, num_classes=2)
    nothing = torch.full((3,), -100)
    assert int(classifier.count_predictions(x, torch.tensor([1, -100, 0]))) == 2
    assert float(classifier.loss(x, nothing).detach()) == int(classifier.count_predictions(x, nothing)) == 0
    pairs = sq.EncoderDecoder(
        sq.TransformerConfig(**SIZES, causal=False), sq.TransformerConfig(**SIZES, cross_attention=True), vocab_size=5
    )
    assert int(pairs.count_predictions(x, x, target_mask=mask)) == 5
    x, mask = x[1:], mask[1:]
    assert float(pairs.loss(x, x, target_mask=mask).detach()) == int(pairs.count_predictions(x, x, target_mask=mask)) == 0


@pytest.mark.parametrize("config", CONFIGS)
def test_it_is_the_number_of_losses(config: sq.BackboneConfig) -> None:
    model, generator = language_model(config), torch.Generator().manual_seed(3)
    x = torch.randint(0, 13, (4, 20), generator=generator)
    mask, scored = (torch.rand(4, 20, generator=generator) < share for share in (0.7, 0.4))
    mask[1], scored[2] = False, False
    for arguments in ({}, {"mask": mask}, {"scored": scored}, {"mask": mask, "scored": scored}):
        count = model.count_predictions(x, **arguments)
        assert count.dtype is torch.int64
        if config.causal:
            assert int(count) == len(model.token_losses(x, **arguments)[0])
        else:  # a share of each row, and one token at least where there are any
            real = arguments.get("mask", torch.ones_like(mask)) & arguments.get("scored", torch.ones_like(mask))
            assert int(count) == sum(min(max(round(0.15 * n), 1), n) for n in real.sum(dim=1).tolist())
            everything = model.count_predictions(x, **arguments, mask_probability=1.0)
            assert int(everything) == len(model.token_losses(x, **arguments, masked=real)[0])


@pytest.mark.parametrize("config", [config for config in CONFIGS if config.id.endswith(("-causal", "-both"))])  # without options
@settings(deadline=None, max_examples=10)
@given(lengths=st.lists(st.integers(0, 12), min_size=2, max_size=6), cut=st.integers(1, 5), data=st.data())
def test_weighted_losses_of_parts_are_the_loss_of_the_whole(
    config: sq.BackboneConfig, lengths: list[int], cut: int, data: st.DataObject
) -> None:
    """Loss and gradients, rows of every length, parts that score nothing among them."""
    model, cut = language_model(config).train(), min(cut, len(lengths) - 1)
    scored = torch.tensor([[data.draw(st.booleans()) for _ in range(13)] for _ in lengths])
    x = torch.randint(0, 13, (len(lengths), 13), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(13) < torch.tensor(lengths)[:, None]
    hidden = {} if config.causal else {"mask_probability": 1.0}
    parameters = list(model.parameters())

    def gradients(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[float, list[Tensor]]:
        total = sum(model.count_predictions(*part[:2], scored=part[2], **hidden) for part in parts)
        loss = sum(
            model.loss(*part[:2], scored=part[2], **hidden) * model.count_predictions(*part[:2], scored=part[2], **hidden) / max(total, 1)
            for part in parts
        )
        assert isinstance(loss, Tensor)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return float(loss.detach()), [torch.zeros(()) if gradient is None else gradient for gradient in found]

    whole, wanted = gradients([(x, mask, scored)])
    parts, found = gradients([(x[:cut], mask[:cut], scored[:cut]), (x[cut:], mask[cut:], scored[cut:])])
    assert parts == pytest.approx(whole, rel=1e-5, abs=1e-7)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
