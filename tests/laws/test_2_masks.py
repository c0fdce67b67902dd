"""Law 2: a padded token is as if it were not there. Its content changes nothing at all, its place nothing but rounding."""

import pytest
import torch

import subquadratic as sq

from .matrix import configs, inputs, language_model, last, tokens


def padded(x: torch.Tensor, left: int, right: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, N, D) with noise around it, and the mask that hides the noise."""
    noise = inputs(1, left + x.shape[1] + right, x.shape[2], std=5.0, seed=9)
    mask = torch.zeros(1, noise.shape[1], dtype=torch.bool)
    mask[:, left : left + x.shape[1]] = True
    noise[mask] = x[0]
    return noise, mask


@pytest.mark.parametrize("amounts", [(0, 0), (5, 0), (0, 7), (3, 4)], ids=str)
@pytest.mark.parametrize("config", configs())
def test_the_amount_of_padding_does_not_matter(config: sq.BackboneConfig, amounts: tuple[int, int]) -> None:
    backbone, x = config.build().double().eval(), inputs(1, 11, config.dim)
    y, mask = padded(x, *amounts)
    output, expected = backbone(y, mask=mask), backbone(x)
    real = last(output, expected.shape[1]) if config.aligned_right else output[mask][None]
    torch.testing.assert_close(real, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("config", configs())
def test_the_content_of_padding_does_not_matter_at_all(config: sq.BackboneConfig) -> None:
    backbone, x = config.build().double().eval(), inputs(3, 12, config.dim)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[0, :4], mask[1, -5:], mask[2, 3:6] = False, False, False
    changed = x.masked_fill(~mask[..., None], torch.nan)
    assert torch.equal(backbone(x, mask=mask), backbone(changed, mask=mask))


@pytest.mark.parametrize("config", configs())
def test_a_hole_is_as_if_it_were_not_there(config: sq.BackboneConfig) -> None:
    backbone, x = config.build().double().eval(), inputs(1, 12, config.dim)
    mask = torch.ones(1, 12, dtype=torch.bool)
    mask[0, 4:7] = False
    expected, output = backbone(x[:, mask[0]]), backbone(x, mask=mask)
    real = last(output, expected.shape[1]) if config.aligned_right else output[mask][None]
    torch.testing.assert_close(real, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("config", configs())
def test_a_full_mask_is_no_mask(config: sq.BackboneConfig) -> None:
    model, x = language_model(config), tokens(2, 12)
    torch.testing.assert_close(model(x, mask=torch.ones(2, 12, dtype=torch.bool)), model(x), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("config", configs())
def test_an_empty_row_gives_zeros_and_finite_gradients(config: sq.BackboneConfig) -> None:
    model, x = language_model(config), tokens(2, 9)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1] = False
    logits = model(x, mask=mask)
    assert not logits[1].any()
    torch.testing.assert_close(logits[:1], model(x[:1]), rtol=1e-6, atol=1e-8)
    model.loss(x, mask, generator=torch.Generator().manual_seed(0)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    everything_padded = torch.zeros(2, 9, dtype=torch.bool)
    assert not model(x, mask=everything_padded).any()


@pytest.mark.parametrize("config", configs(causal=True))  # a bidirectional loss hides tokens at random
def test_the_loss_ignores_padding(config: sq.BackboneConfig) -> None:
    model, x = language_model(config), tokens(1, 10)
    noisy = tokens(1, 16, seed=5)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[:, 4:14] = True
    noisy[mask] = x[0]
    torch.testing.assert_close(model.loss(noisy, mask), model.loss(x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("config", configs())
def test_tokens_under_padding_may_be_anything(config: sq.BackboneConfig) -> None:
    model, x = language_model(config), tokens(2, 9)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :3] = False
    assert torch.equal(model(x.masked_fill(~mask, -100), mask=mask), model(x, mask=mask))


@pytest.mark.parametrize("config", configs())
def test_pairwise_masks_are_refused_with_advice(config: sq.BackboneConfig) -> None:
    backbone, x = config.build().double(), inputs(2, 6, config.dim)
    with pytest.raises(ValueError, match="causal=True"):
        backbone(x, mask=torch.ones(6, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must be bool"):
        backbone(x, mask=torch.ones(2, 6))
    with pytest.raises(ValueError, match=r"mask must be \(batch, length\)"):
        backbone(x, mask=torch.ones(2, 5, dtype=torch.bool))
