"""Causal Linformer attention against the naive loop over positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subquadratic.ops.slot_attention import causal_slot_attention, causal_slot_attention_reference


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 30), chunk=st.integers(1, 35), slots=st.integers(1, 6), one_head=st.booleans(), seed=st.integers(0, 10**6))
def test_equals_the_definition(length: int, chunk: int, slots: int, one_head: bool, seed: int) -> None:
    torch.manual_seed(seed)
    q, k, v = torch.randn(3, 2, 2, length, 4, dtype=torch.float64)
    if one_head:
        k, v = k[:, :1], v[:, :1]
    e, f = torch.randn(2, length, slots, dtype=torch.float64)
    output, _ = causal_slot_attention(q, k, v, e, f, chunk=chunk)
    torch.testing.assert_close(output, causal_slot_attention_reference(q, k, v, e, f), rtol=1e-9, atol=1e-10)


def test_pieces_equal_the_whole() -> None:
    q, k, v = torch.randn(3, 2, 2, 21, 4, dtype=torch.float64)
    e, f = torch.randn(2, 2, 21, 3, dtype=torch.float64)  # rows of their own for each batch row
    whole, _ = causal_slot_attention(q, k, v, e, f, chunk=8)
    state, parts = None, []
    for a, b in ((0, 1), (1, 9), (9, 21)):
        part, state = causal_slot_attention(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], e[:, a:b], f[:, a:b], state, chunk=8)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)


def test_gradients_equal_the_definitions() -> None:
    tensors = [torch.randn(1, 2, 11, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    tensors += [torch.randn(11, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    found = torch.autograd.grad(causal_slot_attention(*tensors, chunk=4)[0].square().sum(), tensors)
    expected = torch.autograd.grad(causal_slot_attention_reference(*tensors).square().sum(), tensors)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_wrong_weights_are_named() -> None:
    q = torch.randn(1, 1, 5, 2)
    with pytest.raises(ValueError, match=r"key_weights and value_weights must be \(length, slots\) = \(5, R\)"):
        causal_slot_attention(q, q, q, torch.randn(4, 3), torch.randn(4, 3))
