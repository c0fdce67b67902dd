"""Cross-entropy from hidden states, against its definition."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from subquadratic.heads import cross_entropy
from subquadratic.heads.cross_entropy import chunked_cross_entropy, cross_entropy_reference


def inputs(length: int = 11, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight, and targets of which one or two do not count."""
    targets = torch.randint(0, 7, (length,))
    targets[[3, -1] if length > 3 else []] = -100
    return torch.randn(length, 6, dtype=dtype, requires_grad=True), torch.randn(7, 6, dtype=dtype, requires_grad=True), targets


@pytest.fixture(params=["rows left out", "rows blanked"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets that do not count are left out on processors, and computed for nothing elsewhere."""
    if request.param == "rows blanked":
        monkeypatch.setattr(cross_entropy, "_may_ask", lambda targets: False)


@pytest.mark.parametrize("at_once", [1, 21, 10_000])
@pytest.mark.parametrize("length", [1, 3, 11, 12])
def test_equals_the_definition_with_gradients(length: int, at_once: int, either_way: None) -> None:
    hidden, weight, targets = inputs(length)
    loss, expected = (
        chunked_cross_entropy(hidden, weight, targets, logits_at_once=at_once),
        cross_entropy_reference(hidden, weight, targets),
    )
    torch.testing.assert_close(loss, expected)
    for a, b in zip(torch.autograd.grad(3 * loss, (hidden, weight)), torch.autograd.grad(3 * expected, (hidden, weight)), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(chunked_cross_entropy(hidden, weight, targets, logits_at_once=at_once), expected)


def test_gradients_by_differences(either_way: None) -> None:
    hidden, weight, targets = inputs()
    assert torch.autograd.gradcheck(lambda h, w: chunked_cross_entropy(h, w, targets, logits_at_once=21), (hidden, weight))


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient(frozen: int, either_way: None) -> None:
    *learned, targets = inputs()
    expected = torch.autograd.grad(cross_entropy_reference(*learned, targets), learned[1 - frozen])[0]
    learned[frozen] = learned[frozen].detach()
    chunked_cross_entropy(*learned, targets, logits_at_once=21).backward()
    assert learned[frozen].grad is None
    torch.testing.assert_close(learned[1 - frozen].grad, expected)


def test_nothing_to_count_is_zero(either_way: None) -> None:
    hidden, weight, _ = inputs(3)
    loss = chunked_cross_entropy(hidden, weight, torch.full((3,), -100))
    loss.backward()
    assert loss == 0 and not hidden.grad.any() and not weight.grad.any()


def test_backward_twice_adds_twice() -> None:
    hidden, weight, targets = inputs()
    loss = chunked_cross_entropy(hidden, weight, targets, logits_at_once=21)
    loss.backward(retain_graph=True)
    first = weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(weight.grad, 2 * first)


def test_second_derivatives() -> None:
    hidden, weight, targets = inputs()

    def loss(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return chunked_cross_entropy(hidden, weight, targets, logits_at_once=21)

    assert torch.autograd.gradgradcheck(loss, (hidden, weight), fast_mode=True)


@pytest.mark.parametrize("target", [7, -1])
def test_targets_outside_the_vocabulary_are_errors(target: int) -> None:
    hidden, weight, targets = inputs()
    targets[5] = target
    with pytest.raises(RuntimeError, match="out of bounds"):
        chunked_cross_entropy(hidden, weight, targets)


def test_float32_is_accurate_at_large_logits() -> None:
    hidden, weight, targets = inputs(200, dtype=torch.float32)
    hidden = (hidden * 30).detach().requires_grad_()
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    expected = cross_entropy_reference(*exact, targets)
    loss = chunked_cross_entropy(hidden, weight, targets, logits_at_once=70)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    for a, b in zip(torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(expected, exact), strict=True):
        assert (a - b).square().mean().sqrt() < 2e-6 * b.square().mean().sqrt()


@pytest.mark.parametrize("how", ["inputs", "autocast"])
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_low_precision_sums_in_float32(low: torch.dtype, how: str) -> None:
    hidden, weight, targets = inputs(300, dtype=torch.float32)
    expected = cross_entropy_reference(hidden, weight, targets)
    gradients = torch.autograd.grad(expected, (hidden, weight))
    given = [x.detach().to(low if how == "inputs" else torch.float32).requires_grad_() for x in (hidden, weight)]
    with torch.autocast("cpu", low, enabled=how == "autocast"):
        loss = chunked_cross_entropy(*given, targets, logits_at_once=70)  # thirty chunks
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)
    for a, b, x in zip(torch.autograd.grad(loss, given), gradients, given, strict=True):
        assert a.dtype == x.dtype
        assert (a - b).square().mean().sqrt() < 0.01 * b.square().mean().sqrt()


@pytest.mark.parametrize("at_once", [21, 10_000])
def test_compiles_whole(at_once: int) -> None:
    hidden, weight, targets = inputs()

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return chunked_cross_entropy(hidden, weight, targets, logits_at_once=at_once)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(hidden, weight)
    torch.testing.assert_close(compiled, loss(hidden, weight))
    for a, b in zip(
        torch.autograd.grad(compiled, (hidden, weight)), torch.autograd.grad(loss(hidden, weight), (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(a, b)


class Largest(TorchDispatchMode):
    """Notes the most numbers in any tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(x.numel() for x in tree_iter(result) if isinstance(x, Tensor))])
        return result


def test_no_more_logits_at_once_than_asked() -> None:
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(100, 4, requires_grad=True)
    with Largest() as largest:
        chunked_cross_entropy(hidden, weight, torch.randint(0, 100, (64,)), logits_at_once=800).backward()
    assert largest.numbers == 800
