"""Window attention against pair-by-pair definitions."""

import itertools

import pytest
import torch

from subquadratic.ops.softmax_attention import softmax_attention_reference
from subquadratic.ops.window_attention import empty_window, extend_window_attention, window_allowed_reference, window_attention

CASES = [(length, window) for length in (1, 4, 5, 23) for window in (1, 4, 5, 30)]


def qkv(length: int) -> torch.Tensor:
    return torch.randn(3, 2, 2, length, 4, dtype=torch.float64) * 2


@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("length", "window"), CASES)
def test_equals_the_definition(length: int, window: int, causal: bool, sliding: bool) -> None:
    q, k, v = qkv(length)
    expected = softmax_attention_reference(q, k, v, window_allowed_reference(length, window, causal, sliding))
    torch.testing.assert_close(window_attention(q, k, v, window=window, causal=causal, sliding=sliding), expected)


@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_windows_count_real_tokens_only(causal: bool, sliding: bool) -> None:
    q, k, v = qkv(23)
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[0, :4], mask[1, 10:12] = False, False
    output = window_attention(q, k, v, window=5, causal=causal, sliding=sliding, mask=mask)
    for row in range(2):
        real = mask[row]
        allowed = window_allowed_reference(int(real.sum()), 5, causal, sliding)
        expected = softmax_attention_reference(q[row, :, real], k[row, :, real], v[row, :, real], allowed)
        torch.testing.assert_close(output[row, :, real], expected)
        assert not output[row, :, ~real].any()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("borders", [(0, 23), (0, 1, 2, 12, 23), (0, 11, 12, 13, 23)], ids=str)
def test_pieces_equal_the_whole(borders: tuple[int, ...], sliding: bool, masked: bool) -> None:
    q, k, v = qkv(23)
    mask = torch.ones(2, 23, dtype=torch.bool)
    if masked:
        mask[0, :4], mask[1, 10:12] = False, False
    given = mask if masked else None
    whole = window_attention(q, k, v, window=5, causal=True, sliding=sliding, mask=given)
    state, parts = empty_window(2, 2, 5, 4, dtype=torch.float64), []
    for a, b in itertools.pairwise(borders):
        piece = (tensor[:, :, a:b] for tensor in (q, k, v))
        part, state = extend_window_attention(*piece, state, sliding=sliding, mask=None if given is None else given[:, a:b])
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)
    assert state.keys.shape == (2, 2, 10, 4)  # constant, whatever the length
