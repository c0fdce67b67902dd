"""Token shift against its definition on the real tokens of each row."""

import pytest
import torch

import subquadratic as sq
from subquadratic.layers.token_shift import TokenShift


def expected(x: torch.Tensor, causal: bool) -> torch.Tensor:
    """One row (N, D) without padding."""
    y = x.clone()
    if causal:
        half = x.shape[1] // 2
        y[1:, half : 2 * half], y[0, half : 2 * half] = x[:-1, half : 2 * half], 0
        return y
    third = x.shape[1] // 3
    y[:-1, :third], y[-1, :third] = x[1:, :third], 0
    y[1:, 2 * third : 3 * third], y[0, 2 * third : 3 * third] = x[:-1, 2 * third : 3 * third], 0
    return y


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("causal", [True, False])
def test_neighbours_are_real_tokens(causal: bool, dim: int) -> None:
    x = torch.randn(3, 9, dim)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, :2], mask[2, 4:7] = False, False
    y = TokenShift(dim, causal=causal)(x, mask)
    for row in range(3):
        assert torch.equal(y[row, mask[row]], expected(x[row, mask[row]], causal))
    assert torch.equal(TokenShift(dim, causal=causal)(x)[0], y[0])


def test_pieces_equal_the_whole() -> None:
    shift, x = TokenShift(6, causal=True), torch.randn(2, 9, 6)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 2:5] = False
    for given in (None, mask):
        state, parts = shift.init_state(2), []
        for a, b in ((0, 1), (1, 4), (4, 9)):
            part, state = shift.extend(x[:, a:b], state, mask=None if given is None else given[:, a:b])
            parts.append(part)
        assert torch.equal(torch.cat(parts, dim=1), shift(x, given))


def test_bidirectional_cannot_stream() -> None:
    with pytest.raises(sq.NotCausalError):
        TokenShift(6, causal=False).init_state(1)
