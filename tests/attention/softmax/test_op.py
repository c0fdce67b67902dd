"""Exact attention in parts against its definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from subquadratic.attention.softmax import op as module
from subquadratic.attention.softmax.formula import bottom_right_causal, softmax_attention_reference
from subquadratic.attention.softmax.op import softmax_attention


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mask, however small."""
    monkeypatch.setattr(module, "LARGE_MASK", 0)


def qkv(length: int, keys: int, *, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(2, 2, n, 4, dtype=dtype, requires_grad=True) for n in (length, keys, keys)]


@pytest.mark.parametrize(("length", "keys"), [(1, 1), (1, 7), (2, 7), (6, 7), (40, 130), (7, 7)])
def test_causal_after_a_past_equals_the_definition(length: int, keys: int, parts: None) -> None:
    inputs = qkv(length, keys)
    output = softmax_attention(*inputs, causal=True)
    expected = softmax_attention_reference(*inputs, bottom_right_causal(length, keys, inputs[0].device))
    torch.testing.assert_close(output, expected)
    direction = torch.randn_like(output)
    for a, b in zip(torch.autograd.grad(output, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(softmax_attention(*inputs, causal=True), expected)


def test_gradients_by_differences(parts: None) -> None:
    assert torch.autograd.gradcheck(lambda *x: softmax_attention(*x, causal=True), qkv(3, 5))


def test_fewer_keys_than_queries_are_the_last_ones(parts: None) -> None:
    inputs = qkv(7, 4)
    expected = softmax_attention_reference(*inputs, bottom_right_causal(7, 4, inputs[0].device))
    torch.testing.assert_close(softmax_attention(*inputs, causal=True), expected)


def test_the_future_changes_nothing(parts: None) -> None:
    queries, keys, values = (x.detach() for x in qkv(20, 30))
    output = softmax_attention(queries, keys, values, causal=True)
    for tensor in (keys, values):
        tensor[:, :, 21:] *= 8
    assert torch.equal(softmax_attention(queries, keys, values, causal=True)[:, :, :11], output[:, :, :11])


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_low_precision_is_finite(low: torch.dtype, parts: None) -> None:
    inputs = [(x.detach() * 20).to(low).requires_grad_() for x in qkv(9, 20)]
    output = softmax_attention(*inputs, causal=True)
    gradients = torch.autograd.grad(output.float().sum(), inputs)
    assert output.dtype == low and all(x.isfinite().all() for x in (output, *gradients))


ALLOWED = torch.tensor([[True, False, True, True, False]] * 2 + [[False] * 5])


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"allowed": ALLOWED}])
def test_second_derivatives(options: dict[str, Any], parts: None) -> None:
    assert torch.autograd.gradgradcheck(lambda *x: softmax_attention(*x, **options), qkv(3, 5), fast_mode=True)
