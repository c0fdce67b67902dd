"""Efficient attention, whole and causal, against its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subquadratic.attention.favor.efficient import (
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


def test_packed_documents_are_as_each_by_itself() -> None:
    bounds = [0, 0, 1, 22, 31, 31]
    q, k, v = (torch.randn(1, 2, 31, 4, dtype=torch.float64).requires_grad_() for _ in range(3))
    mask = torch.rand(1, 31) > 0.2
    start_keys, start_values = torch.randn(2, 5, 2, 3, 4, dtype=torch.float64)
    _, start = causal_efficient_attention(start_keys, start_keys, start_values)
    outputs, states = [], []
    for document in range(5):
        here, state = slice(bounds[document], bounds[document + 1]), start.select([document])
        if here.start < here.stop:
            output, state = causal_efficient_attention(q[:, :, here], k[:, :, here], v[:, :, here], state, mask=mask[:, here], chunk=8)
            outputs.append(output)
        states.append(state)
    expected = (torch.cat(outputs, dim=2), *(torch.cat(rows) for rows in zip(*(state.tensors() for state in states), strict=True)))
    output, after = causal_efficient_attention(q, k, v, start, mask=mask, cu_seqlens=torch.tensor(bounds), chunk=8)
    for a, b in zip((output, *after.tensors()), expected, strict=True):
        torch.testing.assert_close(a, b)
    ask = torch.randn_like(output)
    for a, b in zip(torch.autograd.grad(output, (q, k, v), ask), torch.autograd.grad(expected[0], (q, k, v), ask), strict=True):
        torch.testing.assert_close(a, b)
    fresh, after = causal_efficient_attention(q, k, v, cu_seqlens=torch.tensor(bounds))
    alone = efficient_attention_reference(q[:, :, 22:], k[:, :, 22:], v[:, :, 22:], causal=True)
    torch.testing.assert_close(fresh[:, :, 22:], alone)
    assert after.weight.shape == (5, 2, 4) and not after.weight[0].any()


def test_wrong_bounds_are_named() -> None:
    q = torch.randn(1, 2, 5, 4)
    with pytest.raises(ValueError, match="cu_seqlens must run from 0 to the length 5, got 0 to 4"):
        causal_efficient_attention(q, q, q, cu_seqlens=torch.tensor([0, 4]))
    _, state = causal_efficient_attention(q, q, q)
    with pytest.raises(ValueError, match="one row per document of cu_seqlens = 2, got 1"):
        causal_efficient_attention(q, q, q, state, cu_seqlens=torch.tensor([0, 4, 5]))
