"""Softmax pooling, whole and running, against its definition."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subquadratic.ops.prefix_softmax import prefix_softmax_mean, prefix_softmax_mean_reference, softmax_mean


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 40), chunk=st.integers(1, 45), spread=st.sampled_from([0.1, 3.0, 300.0]), seed=st.integers(0, 10**6))
def test_equals_the_definition(length: int, chunk: int, spread: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits, values = torch.randn(2, 3, length, dtype=torch.float64) * spread, torch.randn(2, 3, length, 4, dtype=torch.float64)
    mask = torch.rand(2, length) > 0.3
    output, _ = prefix_softmax_mean(logits, values, mask, chunk=chunk)
    expected = prefix_softmax_mean_reference(logits, values, mask)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)
    whole = softmax_mean(logits, values, mask)
    torch.testing.assert_close(whole[:, :, 0], expected[:, :, -1], rtol=1e-9, atol=1e-10)


def test_pieces_equal_the_whole() -> None:
    logits, values = torch.randn(2, 3, 23, dtype=torch.float64) * 9, torch.randn(2, 3, 23, 4, dtype=torch.float64)
    whole, _ = prefix_softmax_mean(logits, values, chunk=8)
    state, parts = None, []
    for a, b in ((0, 1), (1, 3), (3, 17), (17, 23)):
        part, state = prefix_softmax_mean(logits[..., a:b], values[..., a:b, :], state=state, chunk=8)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)


def test_an_immense_future_leaves_the_past_bit_exact() -> None:
    logits, values = torch.randn(1, 1, 20), torch.randn(1, 1, 20, 4)
    before, _ = prefix_softmax_mean(logits, values, chunk=8)
    logits[..., 11:], values[..., 11:, :] = 1e30, 1e30
    after, _ = prefix_softmax_mean(logits, values, chunk=8)
    assert torch.equal(before[:, :, :11], after[:, :, :11])


def test_gradients_equal_the_definitions() -> None:
    logits, values = torch.randn(1, 2, 13, dtype=torch.float64), torch.randn(1, 2, 13, 3, dtype=torch.float64)
    tensors = (logits.requires_grad_(), values.requires_grad_())
    found = torch.autograd.grad(prefix_softmax_mean(*tensors, chunk=4)[0].square().sum(), tensors)
    expected = torch.autograd.grad(prefix_softmax_mean_reference(*tensors).square().sum(), tensors)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
