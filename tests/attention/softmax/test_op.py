"""Exact attention in parts against its definition, and what grows by appending."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from subquadratic.attention.softmax import cache
from subquadratic.attention.softmax import op as module
from subquadratic.attention.softmax.cache import append
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


@torch.no_grad()
def test_appending_one_by_one_equals_joining() -> None:
    rows, line = torch.randn(2, 3, 300, 4), torch.zeros(2, 3, 0, 4)
    addresses = set()
    for i in range(300):
        line = append(line, rows[:, :, i : i + 1])
        addresses.add(line.untyped_storage().data_ptr())
        assert torch.equal(line, rows[:, :, : i + 1])
    assert len(addresses) < 8  # copied now and then only


@torch.no_grad()
def test_a_line_that_drops_what_is_old_stays_in_its_place() -> None:
    rows = torch.randn(1, 1, 300, 2)
    line, addresses = rows[:, :, :10], set()
    for i in range(10, 300):
        line = append(line, rows[:, :, i : i + 1], drop=1)
        addresses.add(line.untyped_storage().data_ptr())
        assert torch.equal(line, rows[:, :, i - 9 : i + 1])
    assert len(addresses) < 8
    assert line.untyped_storage().nbytes() < 200 * 2 * 4  # however long it went on


@torch.no_grad()
def test_two_continuations_of_one_line_are_both_right() -> None:
    first = append(torch.zeros(1, 0), torch.ones(1, 1), dim=1)
    a, b = append(first, torch.full((1, 1), 2.0), dim=1), append(first, torch.full((1, 1), 3.0), dim=1)
    c, d = append(a, torch.full((1, 1), 4.0), dim=1), append(b, torch.full((1, 1), 5.0), dim=1)
    assert [x.tolist()[0] for x in (first, a, b, c, d)] == [[1], [1, 2], [1, 3], [1, 2, 4], [1, 3, 5]]


def test_appending_in_and_out_of_inference_mode() -> None:
    one = torch.ones(1, 1)
    with torch.inference_mode():
        line = append(append(torch.zeros(1, 0), one, dim=1), one, dim=1)
    with torch.no_grad():
        line = append(line, one, dim=1)
    with torch.inference_mode():
        line = append(line, one, dim=1)
    assert line.tolist() == [[1, 1, 1, 1]]


def test_appending_with_gradients() -> None:
    past, new = torch.randn(1, 2, 3, requires_grad=True), torch.randn(1, 1, 3, requires_grad=True)
    a, b = torch.autograd.grad(append(past, new, dim=1, drop=1).square().sum(), (past, new))
    torch.testing.assert_close(a[:, 1:], 2 * past[:, 1:])
    torch.testing.assert_close(b, 2 * new)
    assert not a[:, :1].any()


def test_what_is_appended_leaves_without_running_python() -> None:
    """A Ctrl-C that arrives in the callback of a weak reference is swallowed: there must be none."""
    line, called = torch.zeros(1, 0), []
    with torch.no_grad():
        for _ in range(3):
            line = append(line, torch.ones(1, 1), dim=1)
        threshold = sys.getprofile()
        sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
        try:
            del line
        finally:
            sys.setprofile(threshold)
    assert called == []


def test_spare_places_of_tensors_that_are_gone_are_forgotten() -> None:
    kept = []
    with torch.no_grad():
        for i in range(2000):
            grown = append(torch.zeros(1, 1), torch.ones(1, 1), dim=1)
            kept += [grown] if i % 10 == 0 else []
    assert 200 <= len(cache._SPARES._entries) <= 1024
    assert all(cache._SPARES.find(grown)[0] is not None for grown in kept)
