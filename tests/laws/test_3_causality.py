"""Law 3: in a causal model, what comes after changes nothing at or before, to the bit."""

import pytest
import torch

import subquadratic as sq

from .matrix import LENGTH, configs, inputs


@pytest.mark.parametrize("config", configs(causal=True))
@pytest.mark.parametrize("place", [1, 9, LENGTH - 1])
def test_a_strong_future_leaves_the_past_bit_exact(config: sq.BackboneConfig, place: int) -> None:
    backbone = config.build().eval()
    x = inputs(2, LENGTH, config.dim, dtype=torch.float32)
    changed = x.clone()
    changed[:, place:] *= 8
    before, after = backbone(x), backbone(changed)
    offset = LENGTH - before.shape[1]  # a Perceiver AR gives its last positions only
    kept = max(0, place - offset)
    assert torch.equal(before[:, :kept], after[:, :kept])
    assert not torch.equal(before[:, kept:], after[:, kept:])


@pytest.mark.parametrize("config", configs(causal=True))
def test_no_gradient_reaches_the_future(config: sq.BackboneConfig) -> None:
    backbone = config.build().double().eval()
    x = inputs(1, 12, config.dim).requires_grad_()
    y = backbone(x)
    place = y.shape[1] // 2
    (gradient,) = torch.autograd.grad(y[:, place].square().sum(), x)
    position = 12 - y.shape[1] + place
    assert not gradient[:, position + 1 :].any()
    assert gradient[:, : position + 1].any()


@pytest.mark.parametrize("config", configs(causal=False))
def test_a_bidirectional_model_does_see_the_future(config: sq.BackboneConfig) -> None:
    backbone, x = config.build().double().eval(), inputs(1, 12, config.dim)
    changed = x.clone()
    changed[:, -1] *= -3.0  # not a constant added, which a norm takes away again
    assert (backbone(x) - backbone(changed))[:, -2].abs().max() > 0
