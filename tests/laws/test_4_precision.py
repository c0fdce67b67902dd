"""Law 4: finite outputs and gradients in every precision, with inputs of standard deviation up to 20."""

import pytest
import torch

import subquadratic as sq

from .matrix import configs, inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("config", configs())
def test_large_inputs_stay_finite(config: sq.BackboneConfig, dtype: torch.dtype) -> None:
    backbone = config.build().to(dtype)
    x = inputs(2, 19, config.dim, std=20.0, dtype=dtype).requires_grad_()
    y = backbone(x)
    assert y.dtype == dtype and y.isfinite().all()
    y.float().square().mean().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("config", configs())
def test_autocast_stays_finite_and_close(config: sq.BackboneConfig, dtype: torch.dtype) -> None:
    backbone = config.build()
    x = inputs(2, 19, config.dim, std=20.0, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        y = backbone(x)
    assert y.isfinite().all()
    y.float().square().mean().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    calm = inputs(2, 19, config.dim, dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        rounded = backbone(calm).float()
    exact = backbone(calm).detach()
    assert (rounded - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()


@pytest.mark.parametrize("config", configs(causal=True))
def test_streaming_in_half_precision(config: sq.BackboneConfig) -> None:
    backbone = config.build().to(torch.bfloat16).eval()
    x = inputs(2, 9, config.dim, std=20.0, dtype=torch.bfloat16)
    state = backbone.init_state(2)
    for i in range(9):
        y, state = backbone.extend(x[:, i : i + 1], state)
        assert y.dtype == torch.bfloat16 and y.isfinite().all()


@pytest.mark.parametrize("config", configs())
def test_float64_throughout(config: sq.BackboneConfig) -> None:
    backbone = config.build().eval()
    x = inputs(1, 19, config.dim)
    single = backbone(x.float()).double()
    double = backbone.double()(x)
    assert double.dtype == torch.float64
    error = (single - double).square().mean().sqrt() / double.square().mean().sqrt()
    assert 0 < error < 1e-4  # 0 would mean that float64 was computed in float32
