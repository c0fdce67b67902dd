"""Maps and tables whose weights are held in 8 bits: what their rounded weights give, of any width and any number of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from subquadratic.core.backend import use_backend
from subquadratic.layers.linear import int8
from subquadratic.layers.linear.int8 import Int8Embedding, Int8Linear, to_int8
from subquadratic.layers.linear.layer import Linear, map_exactly, maps_of
from subquadratic.layers.linear.op import FEW_NUMBERS, FEW_ROWS_HERE


def layer(width: int, out: int, *, bias: bool = True, seed: int = 0) -> Int8Linear:
    torch.manual_seed(seed)
    return Int8Linear.of(nn.Linear(width, out, bias=bias)).eval()


def by_definition(held: Int8Linear, x: torch.Tensor) -> torch.Tensor:
    y = x.double() @ (held.weight.double() * held.scale.double()[:, None]).T
    return y if held.bias is None else y + held.bias.double()


@settings(deadline=None)
@given(out=st.integers(1, 9), width=st.integers(1, 40), power=st.integers(-30, 30), seed=st.integers(0, 99))
def test_a_weight_is_at_most_half_a_step_away(out: int, width: int, power: int, seed: int) -> None:
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(seed)) * 2.0**power
    held, scale = to_int8(weight)
    assert held.dtype is torch.int8 and scale.dtype is torch.float32 and int(held.min()) >= -127
    assert torch.equal(held.abs().amax(dim=1), torch.full((out,), 127, dtype=torch.int8))
    assert ((held * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()
    again, same = to_int8(held * scale[:, None])
    assert torch.equal(again, held)
    torch.testing.assert_close(same, scale, rtol=1e-6, atol=0)


def test_zeros_stay_zeros_and_what_is_no_number_is_refused() -> None:
    held, scale = to_int8(torch.tensor([[0.0, 0.0], [1.0, -2.0], [1e-45, 0.0]]))
    assert held.tolist() == [[0, 0], [64, -127], [0, 0]] and scale[0] == 1
    assert to_int8(torch.empty(3, 0))[0].shape == (3, 0)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"finite.*\(1, 2\)"):
            to_int8(torch.tensor([[1.0, wrong]]))


@torch.no_grad()
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("width", [1, 15, 64, 67, 130])
@pytest.mark.parametrize("rows", [(), (1,), (2, 1), (3,), (2, 7), (13,), (FEW_ROWS_HERE,), (FEW_ROWS_HERE + 1,), (0,)])
def test_a_map_is_that_of_its_rounded_weights(rows: tuple[int, ...], width: int, backend: str) -> None:
    held, x = layer(width, FEW_NUMBERS // width + 5), torch.randn(*rows, width)
    with use_backend(backend):
        found = held(x)
    torch.testing.assert_close(found.double(), by_definition(held, x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(held(x.bfloat16()).double(), by_definition(held, x), rtol=3e-2, atol=3e-2)
    torch.testing.assert_close(held(x.double()), by_definition(held, x), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_maps_of_the_same_read_it_in_one_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, plain = layer(64, 300), layer(64, 200, bias=False, seed=1), Linear(64, 200)
    seen: list[int] = []
    own = int8.by_few_rows
    monkeypatch.setattr(int8, "by_few_rows", lambda x, maps, scales: (seen.append(len(maps)), own(x, maps, scales))[1])
    x = torch.randn(2, 3, 64)
    for found, held in zip(maps_of(x, first, second), (first, second), strict=True):
        torch.testing.assert_close(found.double(), by_definition(held, x), rtol=1e-5, atol=1e-5)
    assert seen == [2]
    mixed = maps_of(x, first, plain)
    assert torch.equal(mixed[0], first(x)) and torch.equal(mixed[1], plain(x))
    second.register_forward_hook(lambda module, given, y: y + 1)
    assert torch.equal(maps_of(x, first, second)[1], second(x))
    torch.testing.assert_close(map_exactly(x.double(), first, torch.float16, plus=None), by_definition(first, x), rtol=1e-12, atol=1e-12)


def test_gradients_pass_through_to_what_is_read() -> None:
    held, x = layer(64, 300), torch.randn(5, 64, requires_grad=True)
    held(x).sum().backward()
    assert x.grad is not None and not list(held.parameters())
    torch.testing.assert_close(x.grad, held.widened(torch.float32).sum(dim=0).expand_as(x), rtol=1e-5, atol=1e-5)


def test_training_is_refused() -> None:
    for held, given_ in ((layer(8, 3), torch.randn(2, 8)), (Int8Embedding.of(nn.Embedding(5, 8)), torch.tensor([1]))):
        held.train()
        with pytest.raises(ValueError, match=r"8 bits.*cannot be trained.*eval\(\)"):
            held(given_)
        with torch.no_grad():
            held(given_)


def test_scales_stay_float32() -> None:
    held = layer(8, 3)
    scale = held.scale.clone()
    assert held.half().scale.dtype is torch.float32 and held.weight.dtype is torch.int8 and held.bias.dtype is torch.float16
    assert torch.equal(held.float().scale, scale) and held.to(torch.bfloat16)(torch.randn(2, 8).bfloat16()).dtype is torch.bfloat16


@torch.no_grad()
def test_a_table_gives_vectors_and_logits() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(300, 66)
    held = Int8Embedding.of(table).eval()
    tokens, hidden, rounded = torch.randint(0, 300, (2, 5)), torch.randn(2, 3, 66), held.widened(torch.float32)
    assert (rounded - table.weight).abs().max() < table.weight.abs().max() / 200
    assert torch.equal(held(tokens), rounded[tokens])
    torch.testing.assert_close(held.logits(hidden), hidden @ rounded.T, rtol=1e-5, atol=1e-4)
    assert held.bfloat16()(tokens).dtype is torch.bfloat16


@torch.no_grad()
def test_it_compiles_and_traces() -> None:
    held, x = layer(64, 300), torch.randn(3, 64)
    exported = torch.export.export(held, (x,)).module()
    torch.testing.assert_close(exported(x), held(x), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert held(x).dtype is torch.bfloat16
