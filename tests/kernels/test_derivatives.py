"""The one mechanism by which a backward written by hand is differentiated again."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from subquadratic.kernels.derivatives import differentiable, gradients_of, is_plain, is_traced, is_transformed, keep, kept, plain_operators


def scaled_cube(x: Tensor, factor: Any, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return factor * x**3 if y is None else factor * x**3 * y, None


class Cube(torch.autograd.Function):
    """(x, factor, y) -> factor x^3 y, and a number that gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Any, y: Tensor | None) -> tuple[Tensor, Tensor]:
        squares = x * x
        keep(ctx, (x, factor, y), squares)
        note = squares.sum()
        ctx.mark_non_differentiable(note)
        return (factor * squares * x if y is None else factor * squares * x * y), note

    @staticmethod
    @differentiable(scaled_cube)
    def backward(ctx: Any, gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:
        (x, factor, y), (squares,) = kept(ctx)
        with torch.no_grad():  # numbers alone, as a kernel gives them
            d_x = 3 * factor * squares * gradient
            return (d_x, None, None) if y is None else (d_x * y, None, factor * squares * x * gradient)


@pytest.mark.parametrize("both", [True, False])
def test_all_orders(both: bool) -> None:
    x, y = torch.randn(2, 5, dtype=torch.float64).unbind()
    given = [x.requires_grad_(), *([y.requires_grad_()] if both else [])]
    assert torch.autograd.gradcheck(lambda *x: Cube.apply(x[0], 2.0, *(x[1:] or [None]))[0], given)
    assert torch.autograd.gradgradcheck(lambda *x: Cube.apply(x[0], 2.0, *(x[1:] or [None]))[0], given)
    third = x
    value = Cube.apply(x, 2.0, None)[0].sum()
    for expected in (6 * x**2, 12 * x, torch.full_like(x, 12.0)):
        (third,) = torch.autograd.grad(value, x, create_graph=True)
        torch.testing.assert_close(third, expected)
        value = third.sum()


def test_other_uses_of_an_argument_are_not_counted_again() -> None:
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    z = x.exp()
    (found,) = torch.autograd.grad(Cube.apply(z, 1.0, z)[0].sum(), x, create_graph=True)
    torch.testing.assert_close(found, 4 * (4 * x).exp())
    torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], 16 * (4 * x).exp())


def test_a_tangent_goes_through_a_backward() -> None:
    x, direction = torch.randn(2, 4, dtype=torch.float64).unbind()
    x.requires_grad_()
    y = Cube.apply(x, 1.0, None)[0]
    with torch.autograd.forward_ad.dual_level():
        gradient = torch.autograd.forward_ad.make_dual(torch.ones_like(x), direction)
        found = torch.autograd.forward_ad.unpack_dual(torch.autograd.grad(y, x, gradient)[0]).tangent
    assert found is not None and not found.requires_grad
    torch.testing.assert_close(found, (3 * x**2 * direction).detach())


def test_gradients_that_nobody_needs_are_not_made() -> None:
    x, y = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    assert gradients_of(lambda x, y: x * y, (x, y), (False, False), (x,)) == [None, None]
    assert gradients_of(lambda x, y: x * y, (x, y), (True, True), (None,)) == [None, None]
    d_x, d_y = gradients_of(lambda x, y: x * y, (x, y), (True, False), (torch.ones_like(x),))
    assert d_y is None and d_x is not None
    torch.testing.assert_close(d_x, y)


def test_what_asks_for_plain_operators() -> None:
    seen: list[bool] = []
    assert not is_transformed() and not is_traced()
    torch.func.vmap(lambda x: seen.append(is_transformed()) or x)(torch.ones(2))
    torch.func.jvp(lambda x: seen.append(is_transformed()) or x, (torch.ones(2),), (torch.ones(2),))
    with torch.autograd.forward_ad.dual_level():
        seen.append(is_transformed())
    with plain_operators():
        seen += [is_transformed(), is_plain(), is_traced()]
        others: list[bool] = []
        thread = threading.Thread(target=lambda: others.append(is_plain()))
        thread.start()
        thread.join()
        assert others == [False], "another thread goes on as it was"
    assert all(seen) and len(seen) == 6
    assert not is_transformed() and not is_plain()
