"""Evaluation mode for a while: every part has its own mode again, whatever the order in which blocks begin and end."""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from subquadratic.layers.modes import _holds, evaluating


def model() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Linear(2, 2), nn.Dropout())


def modes(whole: nn.Module) -> list[bool]:
    return [module.training for module in whole.modules()]


@given(flags=st.lists(st.booleans(), min_size=6, max_size=6), order=st.lists(st.integers(0, 3), max_size=12))
def test_blocks_that_overlap_in_any_order(flags: list[bool], order: list[int]) -> None:
    """Each number enters a block, over the whole or a part, or leaves it where it is open."""
    whole = model()
    for module, flag in zip(whole.modules(), flags, strict=True):
        module.training = flag
    scopes = [whole, whole, whole[0], whole[0][1]]  # type: ignore[index]
    opened: dict[int, AbstractContextManager[None]] = {}
    for number in order:
        if number in opened:
            opened.pop(number).__exit__(None, None, None)
        else:
            opened[number] = evaluating(scopes[number])
            opened[number].__enter__()
        wanted = {id(module) for key in opened for module in scopes[key].modules()}
        assert modes(whole) == [flag and id(module) not in wanted for module, flag in zip(whole.modules(), flags, strict=True)]
    for context in opened.values():
        context.__exit__(None, None, None)
    assert modes(whole) == flags
    assert not _holds


def test_an_error_and_a_dropped_generator_end_the_block() -> None:
    whole = model()
    whole[0].eval()  # type: ignore[index]
    before = modes(whole)

    def stream() -> Iterator[int]:
        with evaluating(whole):
            yield from range(9)

    with pytest.raises(RuntimeError, match="stop"), evaluating(whole):
        raise RuntimeError("stop")
    assert modes(whole) == before
    first, second = stream(), stream()
    next(first), next(second)
    del first
    gc.collect()
    assert not any(modes(whole))
    del second
    gc.collect()
    assert modes(whole) == before


def test_training_mode_chosen_within_the_block_stays() -> None:
    whole = model().eval()
    with evaluating(whole):
        whole.train()
        with evaluating(whole[0]):  # type: ignore[index]
            assert not any(modes(whole[0]))  # type: ignore[index]
    assert all(modes(whole))


def test_modules_with_a_train_of_their_own_and_compiled_ones() -> None:
    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> "Merging":
            raise NotImplementedError

    whole = nn.Sequential(Merging(2, 2), nn.Dropout())
    with evaluating(whole):
        assert not any(modes(whole))
    assert all(modes(whole))
    compiled = torch.compile(model(), backend="eager")
    with evaluating(compiled):  # type: ignore[arg-type]
        assert not any(modes(compiled))  # type: ignore[arg-type]
    assert all(modes(compiled))  # type: ignore[arg-type]
