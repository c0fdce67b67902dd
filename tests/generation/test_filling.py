"""Filling in masked places against its definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

import subquadratic as sq
from subquadratic.generation import fill, fill_steps


def model(**options: Any) -> sq.LanguageModel:
    torch.manual_seed(0)
    made = sq.LanguageModel(sq.FastformerConfig(dim=16, depth=1, heads=2, causal=False, **options), vocab_size=11).eval()
    with torch.no_grad():
        made.head.weight.mul_(20)
    return made


def case() -> tuple[Tensor, Tensor]:
    return torch.randint(0, 11, (2, 9)), torch.tensor([[0, 1, 1, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 1]]).bool()


def slow(net: sq.LanguageModel, tokens: Tensor, masked: Tensor, banned: list[int]) -> list[tuple[int, int, int]]:
    """(row, position, token) in the order in which places are filled, one row after the other."""
    order = []
    for row in range(len(tokens)):
        now, left = tokens[row].clone(), masked[row].clone()
        while left.any():
            probabilities = net(now[None], masked=left[None])[0].index_fill(-1, torch.tensor(banned), -torch.inf).softmax(-1)
            place = max((p for p in range(len(now)) if left[p]), key=lambda p: float(probabilities[p].max()))
            now[place], left[place] = probabilities[place].argmax(), False
            order.append((row, place, int(now[place])))
    return order


@torch.no_grad()
def test_the_most_certain_place_comes_first_and_is_read_from_then_on() -> None:
    net, (tokens, masked) = model(), case()
    banned = [0, 3]
    found = [
        (int(row), int(position), int(token))
        for step in fill_steps(net, tokens, masked, banned=banned)
        for (row, position), token in zip(step.places, step.tokens, strict=True)
    ]
    expected = slow(net, tokens, masked, banned)
    for row in range(2):
        assert [item for item in found if item[0] == row] == [item for item in expected if item[0] == row]
    filled = fill(net, tokens, masked, banned=banned)
    assert torch.equal(filled[~masked], tokens[~masked])
    assert {(row, place): token for row, place, token in expected} == {tuple(p.tolist()): int(filled[tuple(p)]) for p in masked.nonzero()}


@torch.no_grad()
def test_at_once_is_one_pass() -> None:
    net, (tokens, masked) = model(), case()
    steps = list(fill_steps(net, tokens, masked, at_once=True))
    assert len(steps) == 1
    probabilities = net(tokens, masked=masked).softmax(-1)[masked]
    torch.testing.assert_close(steps[0].probabilities, probabilities)
    assert torch.equal(steps[0].tokens, probabilities.argmax(-1))


def test_what_is_hidden_does_not_matter_and_rows_do_not_meet() -> None:
    net, (tokens, masked) = model(), case()
    filled = fill(net, tokens, masked)
    assert torch.equal(fill(net, torch.where(masked, 7, tokens), masked), filled)
    for row in range(2):
        assert torch.equal(fill(net, tokens[row : row + 1], masked[row : row + 1])[0], filled[row])


def test_drawing_follows_the_probabilities_and_the_seed() -> None:
    net = model()
    tokens, masked = torch.randint(0, 11, (1, 6)).expand(4000, 6), torch.zeros(4000, 6, dtype=torch.bool)
    masked[:, 2] = True
    step = next(fill_steps(net, tokens, masked, temperature=2.0, banned=[1], generator=torch.Generator().manual_seed(0)))
    expected = step.probabilities[0].log().div(2.0).softmax(-1)
    torch.testing.assert_close(torch.bincount(step.tokens, minlength=11) / 4000, expected, atol=0.03, rtol=0)
    again = next(fill_steps(net, tokens, masked, temperature=2.0, banned=[1], generator=torch.Generator().manual_seed(0)))
    assert torch.equal(step.tokens, again.tokens)


def test_bad_arguments_are_named_and_modes_restored() -> None:
    net, (tokens, masked) = model(dropout=0.5).train(), case()
    assert torch.equal(fill(net, tokens, masked), fill(net, tokens, masked))  # no dropout while it fills
    assert net.training
    for arguments, message in (
        ((tokens, torch.zeros_like(masked)), "at least one token"),
        ((tokens, masked.long()), "masked must be"),
        ((tokens, masked[:1]), "masked must be"),
    ):
        with pytest.raises(ValueError, match=message):
            fill_steps(net, *arguments)
    with pytest.raises(ValueError, match="temperature must be"):
        fill_steps(net, tokens, masked, temperature=-1.0)
