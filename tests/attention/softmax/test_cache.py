"""The key-value cache of exact attention: it grows in place where nobody sees it, and hides padding piece by piece."""

import itertools
import sys

import pytest
import torch
from torch import Tensor

from subquadratic.attention import SoftmaxAttention
from subquadratic.attention.softmax import cache
from subquadratic.attention.softmax import layer as module
from subquadratic.attention.softmax import op as operation
from subquadratic.attention.softmax.cache import append
from subquadratic.layers.multi_head import position_turns


def layer(**options: object) -> SoftmaxAttention:
    return SoftmaxAttention(16, heads=2, causal=True, rotary=True, **options).double().eval()  # type: ignore[arg-type]


@torch.no_grad()
def extended(attention: SoftmaxAttention, x: Tensor, borders: list[int], mask: Tensor | None = None) -> Tensor:
    state, parts = attention.init_state(len(x)), []
    for a, b in itertools.pairwise(borders):
        part, state = attention.extend(x[:, a:b], state, mask=None if mask is None else mask[:, a:b])
        parts.append(part)
    return torch.cat(parts, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 3])
def test_one_state_has_many_continuations(window: int | None) -> None:
    attention, start = layer(window=window), torch.randn(2, 9, 16, dtype=torch.float64)
    state = attention.init_state(2)
    for i in range(9):
        _, state = attention.extend(start[:, i : i + 1], state)
    kept = state.map(torch.clone)
    stories = [torch.cat((start, torch.randn(2, 80, 16, dtype=torch.float64)), dim=1) for _ in range(2)]
    states, parts = [state, state], ([], [])
    for i in range(9, 89):
        for which, story in enumerate(stories):
            y, states[which] = attention.extend(story[:, i : i + 1], states[which])
            parts[which].append(y)
    for story, found in zip(stories, parts, strict=True):
        torch.testing.assert_close(torch.cat(found, dim=1), attention(story)[:, 9:])
    for a, b in zip(state.tensors(), kept.tensors(), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_a_state_may_be_rearranged_between_tokens() -> None:
    attention, x = layer(), torch.randn(2, 40, 16, dtype=torch.float64)
    state = attention.init_state(2)
    for i in range(20):
        _, state = attention.extend(x[:, i : i + 1], state)
    swapped, parts = state.reorder(torch.tensor([1, 0])), []
    for i in range(20, 40):
        _, state = attention.extend(x[:, i : i + 1], state)
        y, swapped = attention.extend(x[[1, 0], i : i + 1], swapped)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), attention(x)[[1, 0], 20:])


@pytest.mark.parametrize("borders", [[0, 13], [0, 5, 13], [0, 1, 2, 9, 13]], ids=str)
def test_pieces_with_padding_in_many_small_masks(borders: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERIES_PER_MASK", 3)
    attention, x = layer(), torch.randn(3, 13, 16, dtype=torch.float64)
    mask = torch.ones(3, 13, dtype=torch.bool)
    mask[0, :4], mask[1, 6:8], mask[2] = False, False, False
    torch.testing.assert_close(extended(attention, x, borders, mask), attention(x, mask=mask).detach())


def test_a_long_piece_after_a_past_makes_no_mask_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, x = layer(), torch.randn(1, 700, 16, dtype=torch.float64)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("a mask of all pairs")

    for where in (module, operation):
        monkeypatch.setattr(where, "bottom_right_causal", refuse)
    torch.testing.assert_close(extended(attention, x, [0, 200, 700]), attention(x).detach())


def test_turns_that_a_model_made_are_those_made_here() -> None:
    attention, x = layer(), torch.randn(2, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(attention(x, turns=position_turns(x, None, None, 8)), attention(x))
    state = attention.init_state(2)
    _, state = attention.extend(x, state)
    expected, _ = attention.extend(x, state)
    found, _ = attention.extend(x, state, turns=position_turns(x, None, state.seen, 8))
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_appending_one_by_one_equals_joining() -> None:
    rows, line = torch.randn(2, 3, 300, 4), torch.zeros(2, 3, 0, 4)
    addresses = set()
    for i in range(300):
        line = append(line, rows[:, :, i : i + 1])
        addresses.add(line.untyped_storage().data_ptr())
        assert torch.equal(line, rows[:, :, : i + 1])
    assert len(addresses) < 8  # copied now and then only


@torch.no_grad()
def test_a_line_that_drops_what_is_old_stays_in_its_place() -> None:
    rows = torch.randn(1, 1, 300, 2)
    line, addresses = rows[:, :, :10], set()
    for i in range(10, 300):
        line = append(line, rows[:, :, i : i + 1], drop=1)
        addresses.add(line.untyped_storage().data_ptr())
        assert torch.equal(line, rows[:, :, i - 9 : i + 1])
    assert len(addresses) < 8
    assert line.untyped_storage().nbytes() < 200 * 2 * 4  # however long it went on


@torch.no_grad()
def test_two_continuations_of_one_line_are_both_right() -> None:
    first = append(torch.zeros(1, 0), torch.ones(1, 1), dim=1)
    a, b = append(first, torch.full((1, 1), 2.0), dim=1), append(first, torch.full((1, 1), 3.0), dim=1)
    c, d = append(a, torch.full((1, 1), 4.0), dim=1), append(b, torch.full((1, 1), 5.0), dim=1)
    assert [x.tolist()[0] for x in (first, a, b, c, d)] == [[1], [1, 2], [1, 3], [1, 2, 4], [1, 3, 5]]


def test_appending_in_and_out_of_inference_mode() -> None:
    one = torch.ones(1, 1)
    with torch.inference_mode():
        line = append(append(torch.zeros(1, 0), one, dim=1), one, dim=1)
    with torch.no_grad():
        line = append(line, one, dim=1)
    with torch.inference_mode():
        line = append(line, one, dim=1)
    assert line.tolist() == [[1, 1, 1, 1]]


def test_appending_with_gradients() -> None:
    past, new = torch.randn(1, 2, 3, requires_grad=True), torch.randn(1, 1, 3, requires_grad=True)
    a, b = torch.autograd.grad(append(past, new, dim=1, drop=1).square().sum(), (past, new))
    torch.testing.assert_close(a[:, 1:], 2 * past[:, 1:])
    torch.testing.assert_close(b, 2 * new)
    assert not a[:, :1].any()


def test_what_is_appended_leaves_without_running_python() -> None:
    """A Ctrl-C that arrives in the callback of a weak reference is swallowed: there must be none."""
    line, called = torch.zeros(1, 0), []
    with torch.no_grad():
        for _ in range(3):
            line = append(line, torch.ones(1, 1), dim=1)
        threshold = sys.getprofile()
        sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
        try:
            del line
        finally:
            sys.setprofile(threshold)
    assert called == []


def test_spare_places_of_tensors_that_are_gone_are_forgotten() -> None:
    kept = []
    with torch.no_grad():
        for i in range(2000):
            grown = append(torch.zeros(1, 1), torch.ones(1, 1), dim=1)
            kept += [grown] if i % 10 == 0 else []
    assert 200 <= len(cache._SPARES._entries) <= 1024
    assert all(cache._SPARES.find(grown)[0] is not None for grown in kept)
