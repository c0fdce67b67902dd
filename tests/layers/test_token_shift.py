"""Token shift against its definition on the real tokens of each row."""

import pytest
import torch

import subquadratic as sq
from subquadratic.layers.token_shift import TokenShift


def shares_of(part: int, tokens: int) -> list[int]:
    """Twice as many channels from each nearer token, as many from the farthest two."""
    return [part] if tokens == 1 else [part - part // 2, *shares_of(part // 2, tokens - 1)]


def expected(x: torch.Tensor, causal: bool, tokens: int) -> torch.Tensor:
    """One row (N, D) without padding, channel by channel."""
    y, (length, dim) = x.clone(), x.shape
    part = dim // 2 if causal else dim // 3
    away = [i for i, share in enumerate(shares_of(part, tokens), 1) for _ in range(share)]
    for channel, distance in enumerate(away):
        line = torch.cat((torch.zeros(distance), x[:, (part if causal else 2 * part) + channel]))
        y[:, (part if causal else 2 * part) + channel] = line[:length]
        if not causal:
            y[:, channel] = torch.cat((x[:, channel], torch.zeros(distance)))[distance:]
    return y


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("dim", [1, 2, 3, 7, 8, 48])
@pytest.mark.parametrize("causal", [True, False])
def test_neighbours_are_real_tokens(causal: bool, dim: int, tokens: int) -> None:
    x = torch.randn(3, 9, dim)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, :2], mask[2, 4:7] = False, False
    y = TokenShift(dim, causal=causal, tokens=tokens)(x, mask)
    for row in range(3):
        assert torch.equal(y[row, mask[row]], expected(x[row, mask[row]], causal, tokens))
    assert torch.equal(TokenShift(dim, causal=causal, tokens=tokens)(x)[0], y[0])


@pytest.mark.parametrize("tokens", [1, 3, 6])
def test_pieces_equal_the_whole(tokens: int) -> None:
    shift, x = TokenShift(16, causal=True, tokens=tokens), torch.randn(2, 9, 16)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 2:5] = False
    for given in (None, mask, torch.zeros_like(mask)):
        state, parts = shift.init_state(2), []
        for a, b in ((0, 1), (1, 4), (4, 5), (5, 9)):
            part, state = shift.extend(x[:, a:b], state, mask=None if given is None else given[:, a:b])
            parts.append(part)
        whole = shift(x, given)
        assert torch.equal(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("value", [-1, 1.5, "yes"])
def test_it_is_a_flag_or_a_number_of_tokens(value: object) -> None:
    with pytest.raises(ValueError, match="token_shift must be True, False or a number of tokens"):
        sq.TransformerConfig(dim=8, depth=1, heads=2, token_shift=value)  # type: ignore[arg-type]


def test_bidirectional_cannot_stream() -> None:
    with pytest.raises(sq.NotCausalError):
        TokenShift(6, causal=False).init_state(1)
