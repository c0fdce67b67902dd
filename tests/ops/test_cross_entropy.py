"""Cross-entropy from hidden states, against its definition."""

import pytest
import torch

from subquadratic.ops.cross_entropy import chunked_cross_entropy, cross_entropy_reference


@pytest.mark.parametrize("at_once", [1, 21, 10_000])
def test_equals_the_definition_with_gradients(at_once: int) -> None:
    hidden, weight = torch.randn(11, 6, dtype=torch.float64, requires_grad=True), torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 7, (11,))
    targets[3] = -100
    loss, expected = (
        chunked_cross_entropy(hidden, weight, targets, logits_at_once=at_once),
        cross_entropy_reference(hidden, weight, targets),
    )
    torch.testing.assert_close(loss, expected)
    for a, b in zip(torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_to_count_is_zero() -> None:
    hidden = torch.randn(3, 6, requires_grad=True)
    loss = chunked_cross_entropy(hidden, torch.randn(7, 6), torch.full((3,), -100))
    loss.backward()
    assert loss == 0 and not hidden.grad.any()
