"""The key-value cache of exact attention: it grows in place where nobody sees it, and hides padding piece by piece."""

import itertools

import pytest
import torch
from torch import Tensor

from subquadratic.attention import SoftmaxAttention
from subquadratic.attention.softmax import layer as module
from subquadratic.attention.softmax import op as operation
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
