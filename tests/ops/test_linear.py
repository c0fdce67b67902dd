"""The linear map gives PyTorch's results and derivatives, whichever library computes it."""

import pytest
import torch
from torch.nn import functional as F

from subquadratic.layers.linear import Linear
from subquadratic.ops import linear as ops
from subquadratic.ops.linear import FEWEST_ROWS, linear


@pytest.fixture(params=["as chosen", "oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "oneDNN":
        if not torch.backends.mkldnn.is_available():
            pytest.skip("this PyTorch has no oneDNN")
        monkeypatch.setattr(ops, "onednn_is_faster", lambda: True)


def inputs(rows: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(*shape, requires_grad=True) for shape in ((*rows, 24), (40, 24), (40,))]


@pytest.mark.parametrize("rows", [(2, FEWEST_ROWS), (FEWEST_ROWS,), (3, 5), (0,)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients(library: None, rows: tuple[int, ...], bias: bool) -> None:
    x, weight, offset = inputs(rows)
    wanted = (x, weight, offset) if bias else (x, weight)
    towards = torch.randn(*rows, 40)
    mine, true = (f(*wanted) for f in (linear, F.linear))
    torch.testing.assert_close(mine, true, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(y, wanted, towards) for y in (mine, true)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_strided_inputs_and_gradients(library: None) -> None:
    x, weight, bias = inputs((FEWEST_ROWS, 2))
    y = linear(x.transpose(0, 1)[:1], weight, bias)
    torch.testing.assert_close(y, F.linear(x.transpose(0, 1)[:1], weight, bias), rtol=1e-5, atol=1e-5)
    y.sum().backward()  # a gradient with strides of zero
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:, 0], weight.sum(dim=0).expand(FEWEST_ROWS, -1), rtol=1e-4, atol=1e-4)


def test_frozen_parts_get_no_gradient(library: None) -> None:
    x, weight, bias = inputs((FEWEST_ROWS,))
    linear(x.detach(), weight, bias.detach()).sum().backward()
    assert weight.grad is not None and x.grad is None and bias.grad is None


def test_second_derivatives(library: None) -> None:
    x, weight, _ = inputs((FEWEST_ROWS,))

    def curvature(f: object) -> torch.Tensor:
        (slope,) = torch.autograd.grad(f(x, weight).square().sum(), (x,), create_graph=True)  # type: ignore[operator]
        return torch.autograd.grad(slope.square().sum(), (weight,))[0]

    torch.testing.assert_close(curvature(linear), curvature(F.linear), rtol=1e-4, atol=1e-1)


def test_autocast_and_torch_func_go_their_own_way(library: None) -> None:
    x, weight, bias = inputs((FEWEST_ROWS,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias).dtype is torch.bfloat16
    torch.testing.assert_close(torch.func.grad(lambda x: linear(x, weight).sum())(x), weight.sum(dim=0).expand_as(x), rtol=1e-5, atol=1e-5)


def test_the_layer_is_a_linear_layer() -> None:
    torch.manual_seed(0)
    layer = Linear(24, 40)
    assert isinstance(layer, torch.nn.Linear)
    x = torch.randn(2, FEWEST_ROWS, 24)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rows", [(1, 1), (1,), (), (3, 1), (2, 4), (9,), (0,)])
@pytest.mark.parametrize("width", [40, 41])
@pytest.mark.parametrize("bias", [True, False])
def test_a_few_rows(library: None, rows: tuple[int, ...], width: int, bias: bool) -> None:
    x, weight, offset = torch.randn(*rows, 24), torch.randn(width, 24), torch.randn(width) if bias else None
    found = linear(x, weight, offset)
    torch.testing.assert_close(found, F.linear(x, weight, offset), rtol=1e-5, atol=1e-5)
    assert found.is_contiguous()
    wide = torch.randn(*rows, 24, 2)[..., 0]
    torch.testing.assert_close(linear(wide, weight.T.contiguous().T, offset), F.linear(wide, weight, offset), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear(wide, weight, offset), F.linear(wide, weight, offset), rtol=1e-5, atol=1e-5)
