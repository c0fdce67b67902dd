"""The linear map gives PyTorch's results and derivatives, whichever library computes it."""

import pytest
import torch
from torch.nn import functional as F

from subquadratic.core.backend import use_backend
from subquadratic.layers.linear import op as ops
from subquadratic.layers.linear.layer import Linear, maps_of
from subquadratic.layers.linear.op import FEWEST_OF_UNIT, linear, linear_together, outer_sum, slot_sums

DIM, OUT, MANY = 72, 80, 1024


@pytest.fixture(params=["as chosen", "oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "oneDNN":
        if not torch.backends.mkldnn.is_available():
            pytest.skip("this PyTorch has no oneDNN")
        monkeypatch.setattr(ops, "least_work", lambda: 1 << 12)
        monkeypatch.setattr(ops, "has_matrix_unit", lambda: False)


def inputs(rows: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(*shape, requires_grad=True) for shape in ((*rows, DIM), (OUT, DIM), (OUT,))]


@pytest.mark.parametrize("rows", [(2, MANY), (MANY,), (3, 5), (0,)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients(library: None, rows: tuple[int, ...], bias: bool) -> None:
    x, weight, offset = inputs(rows)
    wanted = (x, weight, offset) if bias else (x, weight)
    towards = torch.randn(*rows, OUT)
    mine, true = (f(*wanted) for f in (linear, F.linear))
    torch.testing.assert_close(mine, true, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(y, wanted, towards) for y in (mine, true)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rows", [(2, MANY), (3, 5)])
def test_what_is_added(library: None, rows: tuple[int, ...]) -> None:
    wanted = (*inputs(rows), torch.randn(*rows, OUT, requires_grad=True))
    towards = torch.randn(*rows, OUT)
    mine, true = linear(*wanted[:3], plus=wanted[3]), F.linear(*wanted[:3]) + wanted[3]
    torch.testing.assert_close(mine, true, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(y, wanted, towards) for y in (mine, true)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_what_is_added_may_be_broadcast_or_of_another_dtype(library: None) -> None:
    x, weight, bias = inputs((MANY,))
    for plus in (torch.randn(OUT), torch.randn(MANY, OUT).double()):
        torch.testing.assert_close(linear(x, weight, bias, plus=plus), F.linear(x, weight, bias) + plus, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [(2, MANY), (3, 5)])
@pytest.mark.parametrize("frozen", [True, False])
def test_maps_of_the_same(library: None, rows: tuple[int, ...], frozen: bool) -> None:
    x, weight, bias = inputs(rows)
    other = torch.randn(OUT + 24, DIM, requires_grad=not frozen)
    wanted = (x, weight, bias) if frozen else (x, weight, bias, other)
    mine, true = linear_together(x, [(weight, bias), (other, None)]), [F.linear(x, weight, bias), F.linear(x, other)]
    towards = [torch.randn_like(y) for y in true]
    for a, b in zip(mine, true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(y, wanted, towards) for y in (mine, true)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    (only,) = torch.autograd.grad(linear_together(x, [(weight, bias), (other, None)])[1].sum(), (x,))  # nothing reaches the first
    torch.testing.assert_close(only, other.sum(dim=0).expand_as(x), rtol=1e-4, atol=1e-4)


def test_strided_inputs_and_gradients(library: None) -> None:
    x, weight, bias = inputs((MANY, 2))
    y = linear(x.transpose(0, 1)[:1], weight, bias)
    torch.testing.assert_close(y, F.linear(x.transpose(0, 1)[:1], weight, bias), rtol=1e-5, atol=1e-5)
    y.sum().backward()  # a gradient with strides of zero
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:, 0], weight.sum(dim=0).expand(MANY, -1), rtol=1e-4, atol=1e-4)


def test_frozen_parts_get_no_gradient(library: None) -> None:
    x, weight, bias = inputs((MANY,))
    linear(x.detach(), weight, bias.detach()).sum().backward()
    assert weight.grad is not None and x.grad is None and bias.grad is None


def test_biases_alone_need_no_product(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = inputs((MANY,))
    monkeypatch.setattr(ops.native, "sums_of_outer_products", None)
    linear(x.detach(), weight.detach(), bias).sum().backward()
    torch.testing.assert_close(bias.grad, torch.full_like(bias, MANY))


def test_second_derivatives(library: None) -> None:
    x, weight, _ = inputs((MANY,))

    def curvature(f: object, *at: torch.Tensor) -> torch.Tensor:
        (slope,) = torch.autograd.grad(f(*at).square().sum(), at[:1], create_graph=True)  # type: ignore[operator]
        return torch.autograd.grad(slope.square().sum(), at[1])[0].double()

    true = curvature(F.linear, x.double(), weight.double())
    near = {"rtol": 1e-4, "atol": 1e-6 * true.abs().max().item()}
    torch.testing.assert_close(curvature(linear, x, weight), true, **near)
    both = curvature(lambda x, weight: sum(linear_together(x, [(weight, None), (weight, None)])), x, weight)
    torch.testing.assert_close(both, 16 * true, rtol=near["rtol"], atol=16 * near["atol"])


def test_autocast_and_torch_func_go_their_own_way(library: None) -> None:
    x, weight, bias = inputs((MANY,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias).dtype is torch.bfloat16
    torch.testing.assert_close(torch.func.grad(lambda x: linear(x, weight).sum())(x), weight.sum(dim=0).expand_as(x), rtol=1e-5, atol=1e-5)


def test_the_layer_is_a_linear_layer() -> None:
    torch.manual_seed(0)
    layer = Linear(DIM, OUT)
    assert isinstance(layer, torch.nn.Linear)
    x = torch.randn(2, MANY, DIM)
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


def slots_by_torch(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return weights.transpose(-1, -2) @ x


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("weights", ["each row's", "one row's", "all rows'"])
def test_sums_of_slots(library: None, batch: int, weights: str) -> None:
    torch.manual_seed(0)
    shape = {"each row's": (batch,), "one row's": (1,), "all rows'": ()}[weights]
    leaves = [torch.randn(*shape, FEWEST_OF_UNIT, 66, requires_grad=True), torch.randn(batch, FEWEST_OF_UNIT, 70, requires_grad=True)]
    mine, true = slot_sums(*leaves), slots_by_torch(*(leaf.double() for leaf in leaves))
    torch.testing.assert_close(mine, true.float(), rtol=1e-4, atol=1e-4)
    towards = torch.randn_like(mine)
    found, right = (torch.autograd.grad(y, leaves, towards.to(y.dtype)) for y in (mine, true))
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for wanted in leaves:
        (alone,) = torch.autograd.grad(slot_sums(*(leaf if leaf is wanted else leaf.detach() for leaf in leaves)), wanted, towards)
        assert torch.equal(alone, found[0 if wanted is leaves[0] else 1])

    def curvature(f: object) -> torch.Tensor:
        slopes = torch.autograd.grad(f(*leaves).square().sum(), leaves, create_graph=True)  # type: ignore[operator]
        return torch.autograd.grad(slopes[1].square().sum(), (leaves[0],))[0]

    torch.testing.assert_close(curvature(slot_sums), curvature(slots_by_torch), rtol=1e-3, atol=1e3)  # of 1e7


def test_outer_sum(library: None) -> None:
    torch.manual_seed(0)
    for rows in (5, FEWEST_OF_UNIT):
        other, x = torch.randn(80, rows).T, torch.randn(rows, 70)
        torch.testing.assert_close(outer_sum(other, x), (other.double().T @ x.double()).float(), rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(not ops.has_matrix_unit(), reason="no matrix unit here")
def test_when_the_matrix_unit_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[torch.Size] = []
    product = ops.native.linear_by_unit
    monkeypatch.setattr(ops.native, "linear_by_unit", lambda x, *rest: called.append(x.shape) or product(x, *rest))
    x, weight, bias = inputs((2, FEWEST_OF_UNIT // 2))
    linear(x, weight, bias)
    assert called == [x.shape]
    linear(x[:1], weight, bias), linear(x, weight[:10]), linear(x.double(), weight.double())
    with use_backend("torch"):
        linear(x, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        linear(x, weight)
    assert len(called) == 1


def test_shapes_that_do_not_fit_are_refused_as_by_pytorch(library: None) -> None:
    x, weight, bias = inputs((MANY,))
    for wrong in ((x[:, :-1], weight, bias), (x, weight[:, :-1], bias), (x, weight, bias[:-1])):
        with pytest.raises(RuntimeError):
            linear(*wrong)
    with pytest.raises(RuntimeError):
        slot_sums(torch.randn(FEWEST_OF_UNIT + 1, 66), torch.randn(2, FEWEST_OF_UNIT, 70))
    with pytest.raises(RuntimeError):
        slot_sums(torch.randn(3, FEWEST_OF_UNIT, 66), torch.randn(2, FEWEST_OF_UNIT, 70))
    with pytest.raises(RuntimeError):
        outer_sum(torch.randn(FEWEST_OF_UNIT + 1, 66), torch.randn(FEWEST_OF_UNIT, 70))


def test_maps_with_a_hook_or_in_other_hands_are_called() -> None:
    x, heard = torch.randn(MANY, DIM), []
    first, second = Linear(DIM, OUT), Linear(DIM, OUT)
    first.register_forward_hook(lambda *_: heard.append(1))
    for a, b in zip(maps_of(x, first, second), (first(x), second(x)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert len(heard) == 2
    adapted = torch.nn.Sequential(Linear(DIM, OUT), torch.nn.Tanh())
    assert maps_of(x, second, adapted)[1].abs().max() <= 1
