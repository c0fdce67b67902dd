"""States as pytrees that are never changed in place."""

import pytest
import torch
from torch.utils import _pytree as pytree

from subquadratic.core.state import State, state


@state
class Inner(State):
    x: torch.Tensor


@state
class Outer(State):
    parts: tuple[Inner, ...]
    nothing: None
    count: torch.Tensor


def make() -> Outer:
    return Outer((Inner(torch.arange(6.0).view(3, 2)), Inner(torch.ones(3))), None, torch.tensor([1, 2, 3]))


def test_pytree_round_trip() -> None:
    value = make()
    leaves, spec = pytree.tree_flatten(value)
    assert [leaf is None for leaf in leaves] == [False, False, True, False]  # torch counts None as a leaf
    again = pytree.tree_unflatten(leaves, spec)
    assert isinstance(again, Outer) and torch.equal(again.parts[0].x, value.parts[0].x)


def test_rows() -> None:
    value = make()
    assert value.reorder(torch.tensor([2, 2])).count.tolist() == [3, 3]
    assert value.repeat(2).count.tolist() == [1, 1, 2, 2, 3, 3]
    assert value.select(torch.tensor([True, False, True])).parts[0].x.tolist() == [[0, 1], [4, 5]]
    assert value.nbytes() == 6 * 4 + 3 * 4 + 3 * 8


def test_conversion_leaves_integers_alone() -> None:
    moved = make().to(dtype=torch.float64)
    assert moved.parts[0].x.dtype == torch.float64 and moved.count.dtype == torch.int64


def test_frozen_and_strict() -> None:
    with pytest.raises(AttributeError):
        make().count = torch.zeros(3)  # type: ignore[misc]
    with pytest.raises(TypeError, match="a state holds tensors"):
        Inner("text").map(torch.clone)  # type: ignore[arg-type]
