"""Attention within a window by the C kernels against its definition in float64, pair by pair."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subquadratic.attention.softmax import window_native
from subquadratic.attention.softmax.formula import softmax_attention_reference
from subquadratic.attention.softmax.window import window_allowed_reference, window_attention
from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


def compare(
    length: int, window: int, width: int, values_width: int, *, causal: bool, sliding: bool, holes: float, spread: float, seed: int
) -> None:
    """Outputs and gradients of three rows, of which real tokens are far from each other, or few, or all there are."""
    torch.manual_seed(seed)
    q, k, v, towards = (torch.randn(3, length, 2, size).transpose(1, 2) for size in (width, width, values_width, values_width))
    q, k = q * spread, k * spread
    mask = None
    if holes:
        mask = torch.rand(3, length) >= holes
        mask[1], mask[2] = False, True
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    with use_backend("native"):
        output = window_attention(*leaves, window=window, causal=causal, sliding=sliding, mask=mask)
    found = [output, *torch.autograd.grad(output, leaves, towards)]
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    true = torch.zeros_like(output, dtype=torch.float64)
    for row in range(3):
        places = torch.arange(length) if mask is None else mask[row].nonzero().squeeze(1)
        if len(places):
            allowed = window_allowed_reference(len(places), window, causal, sliding)
            true[row, :, places] = softmax_attention_reference(*(x[row : row + 1, :, places] for x in wide), allowed)[0]
    for mine, wanted in zip(found, [true, *torch.autograd.grad(true, wide, towards.double())], strict=True):
        # What cancels, as gradients of queries that see one key do, is rounded as what it is made of.
        parts = 0.1 * spread * values_width**0.5
        assert float((mine - wanted).square().mean().sqrt()) < 1e-5 * max(float(wanted.square().mean().sqrt()), parts)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.one_of(st.integers(1, 150), st.sampled_from([63, 64, 65, 128, 200])),
    window=st.one_of(st.integers(1, 220), st.sampled_from([63, 64, 65, 128])), width=st.sampled_from([1, 5, 16, 24, 64]),
    values_width=st.sampled_from([3, 16, 64]), causal=st.booleans(), sliding=st.booleans(), holes=st.sampled_from([0.0, 0.1, 0.6]),
    spread=st.sampled_from([0.3, 1.0, 4.0]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_values_and_gradients_equal_the_definition(
    lanes: None, length: int, window: int, width: int, values_width: int, **others: Any
) -> None:
    compare(length, window, width, values_width, **others)


@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 3, 5], indirect=True)
def test_any_number_of_threads_and_the_same_bits_each_time(threads: int, causal: bool, sliding: bool) -> None:
    compare(700, 40, 16, 16, causal=causal, sliding=sliding, holes=0.3, spread=1.0, seed=threads)
    q, k, v = torch.randn(3, 1, 2, 700, 16).requires_grad_()
    first, second = (
        torch.autograd.grad(window_attention(q, k, v, window=40, causal=causal, sliding=sliding).square().sum(), (q, k, v))
        for _ in range(2)
    )
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("sliding", [True, False])
def test_the_future_and_the_past_beyond_the_window_change_not_a_bit(sliding: bool) -> None:
    rows, window = [torch.randn(1, 2, 200, 16) for _ in range(3)], 24
    with use_backend("native"):
        before = window_attention(*rows, window=window, causal=True, sliding=sliding)
        for i in (0, 17, 63, 64, 130):
            changed = [x.clone() for x in rows]
            first = i - window + 1 if sliding else (i // window - 1) * window
            for x in changed:
                x[:, :, i + 1 :] = 1e3 * torch.randn_like(x[:, :, i + 1 :])
                x[:, :, : max(first, 0)] = -1e3
            assert torch.equal(window_attention(*changed, window=window, causal=True, sliding=sliding)[:, :, i], before[:, :, i])


def test_a_window_that_cannot_be_is_refused() -> None:
    rows = [torch.randn(1, 1, 20, 4) for _ in range(3)]
    for window in (0, -3, window_native.FARTHEST + 1):
        with pytest.raises(ValueError, match="window_attention: a window has 1 to"):
            window_native.window_attention(*rows, window, True, True, None)
