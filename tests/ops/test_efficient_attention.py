"""Efficient attention, whole and causal, against its definition."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subquadratic.ops.efficient_attention import (
    causal_efficient_attention,
    efficient_attention_reference,
    read_efficient,
    summarise_efficient,
)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 30), chunk=st.integers(1, 35), spread=st.sampled_from([1.0, 100.0]), seed=st.integers(0, 10**6))
def test_equals_the_definition(length: int, chunk: int, spread: float, seed: int) -> None:
    torch.manual_seed(seed)
    q, k, v = torch.randn(3, 2, 2, length, 4, dtype=torch.float64) * spread
    mask = torch.rand(2, length) > 0.3
    output, _ = causal_efficient_attention(q, k, v, mask=mask, chunk=chunk)
    torch.testing.assert_close(output, efficient_attention_reference(q, k, v, causal=True, mask=mask), rtol=1e-8, atol=1e-9)
    whole = read_efficient(q, summarise_efficient(k, v, mask))
    torch.testing.assert_close(whole, efficient_attention_reference(q, k, v, causal=False, mask=mask), rtol=1e-8, atol=1e-9)


def test_pieces_equal_the_whole() -> None:
    q, k, v = torch.randn(3, 1, 2, 23, 4, dtype=torch.float64) * 5
    whole, _ = causal_efficient_attention(q, k, v, chunk=8)
    state, parts = None, []
    for a, b in ((0, 1), (1, 10), (10, 23)):
        part, state = causal_efficient_attention(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], state, chunk=8)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)
