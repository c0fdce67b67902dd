"""Rotary positions against complex numbers, and their own backward."""

import pytest
import torch

from subquadratic.ops import rotary
from subquadratic.ops.rotary import apply_rotary, complex_product, rotary_angles, rotation, turn


def as_complex(x: torch.Tensor) -> torch.Tensor:
    return torch.complex(*x.chunk(2, dim=-1))


@pytest.mark.parametrize("conjugate", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (1, 8), (2, 3, 1, 8)])
def test_complex_product_and_its_derivatives(conjugate: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64).transpose(1, 2).requires_grad_()
    y = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    z = complex_product(x, y, conjugate=conjugate)
    factor = as_complex(y).conj() if conjugate else as_complex(y)
    torch.testing.assert_close(as_complex(z), as_complex(x) * factor)
    assert torch.autograd.gradcheck(lambda x, y: complex_product(x, y, conjugate=conjugate), (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: complex_product(x, y, conjugate=conjugate), (x, y))


@pytest.mark.parametrize("batched", [True, False])
def test_a_turn_is_the_rotary_embedding(batched: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 8)
    positions = torch.randint(0, 1000, (2, 7)) if batched else torch.arange(7)
    torch.testing.assert_close(turn(x, rotation(positions, 8)), apply_rotary(x, rotary_angles(positions, 8)))


def test_low_precision_is_turned_in_float32() -> None:
    torch.manual_seed(0)
    x, by = torch.randn(1, 1, 9, 8, dtype=torch.bfloat16), rotation(torch.arange(9), 8)
    turned = turn(x, by)
    assert turned.dtype is torch.bfloat16
    torch.testing.assert_close(turned, turn(x.float(), by).bfloat16(), rtol=0, atol=0)


def test_torch_func_differentiates_it() -> None:
    x, by = torch.randn(1, 1, 3, 4), rotation(torch.arange(3), 4)
    torch.testing.assert_close(torch.func.grad(lambda x: turn(x, by).square().sum())(x), 2 * x)


@pytest.mark.parametrize("shape", [(9, 8), (1, 1, 1, 8), (2, 3, 1, 8), (2, 1, 9, 8), (2, 3, 9, 8)])
@pytest.mark.parametrize("conjugate", [False, True])
def test_long_sequences_go_through_in_pieces(shape: tuple[int, ...], conjugate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(2, 9, 3, 8).transpose(1, 2), torch.randn(shape)
    wanted = complex_product(x, y, conjugate=conjugate)
    monkeypatch.setattr(rotary, "LARGE", 0)
    monkeypatch.setattr(rotary, "PIECE", 2 * 2 * 3 * 8)  # two positions
    found = complex_product(x, y, conjugate=conjugate)
    assert torch.equal(found, wanted) and found.stride() == wanted.stride()


def test_a_rotation_does_not_keep_what_it_turns() -> None:
    x = torch.randn(1, 2, 6, 4, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        turn(x, rotation(torch.arange(6), 4))
    assert [tuple(tensor.shape) for tensor in kept] == [(6, 4)]
