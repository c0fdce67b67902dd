"""Rotary positions against complex numbers, and their own backward."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.layers.rotary import op as rotary
from subquadratic.layers.rotary.op import TURN, angles_from_integers, apply_rotary, complex_product, rotary_angles, rotation, turn


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
    x, turns = torch.randn(1, 1, 9, 8, dtype=torch.bfloat16), rotation(torch.arange(9), 8)
    turned = turn(x, turns)
    assert turned.dtype is torch.bfloat16
    torch.testing.assert_close(turned, turn(x.float(), turns).bfloat16(), rtol=0, atol=0)


def test_torch_func_differentiates_it() -> None:
    x, turns = torch.randn(1, 1, 3, 4), rotation(torch.arange(3), 4)
    torch.testing.assert_close(torch.func.grad(lambda x: turn(x, turns).square().sum())(x), 2 * x)


@pytest.mark.parametrize("shape", [(9, 8), (1, 1, 1, 8), (2, 3, 1, 8), (2, 1, 9, 8), (2, 3, 9, 8)])
@pytest.mark.parametrize("conjugate", [False, True])
def test_long_sequences_go_through_in_pieces(shape: tuple[int, ...], conjugate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(2, 9, 3, 8).transpose(1, 2), torch.randn(shape)
    wanted = complex_product(x, y, conjugate=conjugate)
    monkeypatch.setattr(rotary, "LARGE_PRODUCT", 0)
    monkeypatch.setattr(rotary, "PIECE_NUMBERS", 2 * 2 * 3 * 8)  # two positions
    found = complex_product(x, y, conjugate=conjugate)
    assert torch.equal(found, wanted) and found.stride() == wanted.stride()


def test_a_rotation_does_not_keep_what_it_turns() -> None:
    x = torch.randn(1, 2, 6, 4, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        turn(x, rotation(torch.arange(6), 4))
    assert [tuple(tensor.shape) for tensor in kept] == [(6, 4)]


def exact_angles(position: int, width: int) -> torch.Tensor:
    """In 60 digits, less whole turns: (K / 2,) float64."""
    with localcontext(prec=60):
        angles = [position * Decimal(10000) ** (Decimal(-i) / width) for i in range(0, width, 2)]
        return torch.tensor([float(angle - TURN * int(angle / TURN)) for angle in angles], dtype=torch.float64)


def off_by(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference of angles, whole turns aside."""
    return float((torch.remainder(found.double() - wanted + math.pi, 2 * math.pi) - math.pi).abs().max())


far = st.one_of(st.integers(0, 10**9), st.sampled_from([2**24, 2**24 + 1, 2**31 - 1, 10**9]))


@given(position=far, width=st.sampled_from([2, 6, 64, 128]))
def test_angles_far_along_a_stream(position: int, width: int) -> None:
    wanted, here = exact_angles(position, width), torch.tensor([position])
    assert off_by(rotary_angles(here, width)[0], wanted) < 1e-6
    assert off_by(angles_from_integers(here, width)[0], wanted) < 1e-6
    cosine, sine = rotation(here, width)[0].double().chunk(2)
    assert off_by(torch.atan2(sine, cosine), wanted) < 1e-6


@given(position=st.integers(10**9, 2**62))
def test_angles_beyond_are_as_right_as_float64_is(position: int) -> None:
    wanted, here = exact_angles(position, 64), torch.tensor([position])
    assert off_by(rotary_angles(here, 64)[0], wanted) < max(1e-6, 4e-16 * position)
    assert off_by(angles_from_integers(here, 64)[0], wanted) < max(1e-6, 4e-19 * position)


def test_devices_without_float64_get_angles_from_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    positions = torch.tensor([[0, 1, 2**24 + 1], [7, 10**9, 10**9 + 1]])
    wanted = rotation(positions, 16)
    monkeypatch.setattr(rotary, "has_float64", lambda device: False)
    assert rotary_angles(positions, 16).dtype is torch.float32
    torch.testing.assert_close(rotation(positions, 16), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_default_dtypes_and_autocast_change_no_angle(dtype: torch.dtype) -> None:
    positions = torch.tensor([10**9, 10**9 + 1])
    wanted = rotation(positions, 16)
    torch.set_default_dtype(dtype)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = rotation(positions, 16)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype is torch.float32 and torch.equal(found, wanted)


def test_compiled_exported_mapped_and_on_meta() -> None:
    positions = torch.tensor([[5, 10**9, 2**24 + 1]])
    wanted = rotation(positions, 16)

    class Turns(torch.nn.Module):
        def forward(self, positions: torch.Tensor) -> torch.Tensor:
            return rotation(positions, 16)

    torch.testing.assert_close(torch.compile(Turns(), backend="aot_eager", fullgraph=True)(positions), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.export.export(Turns(), (positions,)).module()(positions), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.func.vmap(lambda x: rotation(x, 16))(positions), wanted[:, 0], rtol=0, atol=1e-6)
    assert rotation(positions.to("meta"), 16).shape == wanted.shape
