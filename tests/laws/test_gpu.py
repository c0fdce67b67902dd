"""The laws on a CUDA device: the same numbers as on the CPU, streaming, half precision. Run with `pytest -m gpu`."""

import pytest
import torch

import subquadratic as sq

from .matrix import LENGTH, configs, inputs, language_model, tokens

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


@pytest.mark.parametrize("config", configs())
def test_agrees_with_the_cpu(config: sq.BackboneConfig) -> None:
    backbone, x = config.build().double(), inputs(2, LENGTH, config.dim)
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, :5] = False
    expected = backbone(x, mask=mask)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in backbone.parameters() if p.grad is not None]
    backbone.zero_grad()
    backbone.cuda()
    output = backbone(x.cuda(), mask=mask.cuda())
    output.square().sum().backward()
    torch.testing.assert_close(output.cpu(), expected, rtol=1e-6, atol=1e-8)
    for a, b in zip([p.grad for p in backbone.parameters() if p.grad is not None], gradients, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("config", configs(causal=True))
def test_streams_and_generates(config: sq.BackboneConfig) -> None:
    model, x = language_model(config), tokens(2, 6)
    expected = model.generate(x, max_new_tokens=5, temperature=0.0)
    assert torch.equal(model.cuda().generate(x.cuda(), max_new_tokens=5, temperature=0.0).cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("config", configs())
def test_autocast_stays_finite(config: sq.BackboneConfig, dtype: torch.dtype) -> None:
    backbone, x = config.build().cuda(), inputs(2, LENGTH, config.dim, std=20.0, dtype=torch.float32).cuda().requires_grad_()
    with torch.autocast("cuda", dtype=dtype):
        y = backbone(x)
    y.float().square().mean().backward()
    assert y.isfinite().all() and x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("config", configs(causal=True))
def test_a_strong_future_leaves_the_past_bit_exact(config: sq.BackboneConfig) -> None:
    backbone, x = config.build().cuda().eval(), inputs(2, LENGTH, config.dim, dtype=torch.float32).cuda()
    changed = x.clone()
    changed[:, 9:] *= 8
    before, after = backbone(x), backbone(changed)
    kept = max(0, 9 - (LENGTH - before.shape[1]))
    assert torch.equal(before[:, :kept], after[:, :kept])
