"""The rows of E and F."""

import pytest
import torch

from subquadratic.attention.low_rank.projection import SlotProjection


def test_pooling_makes_means_of_equal_runs() -> None:
    e, f = SlotProjection(3, max_length=None, kind="pool")(torch.arange(9), torch.tensor([9]))
    assert e is f and e.shape == (1, 9, 3)
    torch.testing.assert_close(e[0].T @ torch.arange(9.0), torch.tensor([1.0, 4.0, 7.0]))
    torch.testing.assert_close(e.sum(dim=1), torch.ones(1, 3))


@pytest.mark.parametrize("length", [1, 2, 5, 7, 8])
def test_every_position_is_pooled_once_whatever_the_length(length: int) -> None:
    e, _ = SlotProjection(3, max_length=None, kind="pool")(torch.arange(length), torch.tensor([length]))
    assert ((e > 0).sum(dim=-1) == 1).all()
    filled = e.sum(dim=1)[0]
    torch.testing.assert_close(filled[filled > 0], torch.ones(min(length, 3)))


def test_a_fresh_convolution_is_pooling_and_then_weighs_places() -> None:
    pool, convolution = SlotProjection(2, max_length=8, kind="pool"), SlotProjection(2, max_length=8, kind="conv")
    torch.testing.assert_close(pool(torch.arange(8))[0], convolution(torch.arange(8))[0])
    with torch.no_grad():
        convolution.key_weights.copy_(torch.linspace(0, 1, 16))
    rows = convolution(torch.arange(8))[0]
    torch.testing.assert_close(rows[:4, 0] * 4, torch.tensor([0.0, 0.25, 0.5, 0.75]))


def test_learned_rows_belong_to_positions() -> None:
    projection = SlotProjection(4, max_length=10)
    e, f = projection(torch.tensor([[3, 9]]))
    assert torch.equal(e[0], projection.key_weights[[3, 9]]) and torch.equal(f[0], projection.value_weights[[3, 9]])
    e, f = SlotProjection(4, max_length=10, shared=True)(torch.arange(3))
    assert e is f


def test_first_rows_are_read_where_they_lie() -> None:
    projection = SlotProjection(4, max_length=10)
    for length in (7, 10):
        for rows, wanted in zip(projection.first(length), projection(torch.arange(length)), strict=True):
            assert torch.equal(rows, wanted)
            mine, true = (torch.autograd.grad(x.square().sum(), projection.parameters(), allow_unused=True) for x in (rows, wanted))
            assert all(a is b is None or torch.equal(a, b) for a, b in zip(mine, true, strict=True))
        assert projection.first(length)[0].data_ptr() == projection.key_weights.data_ptr()


def test_learned_rows_need_a_length() -> None:
    with pytest.raises(ValueError, match="needs max_length"):
        SlotProjection(4, max_length=None)
