"""The residual stream and its norm by the C kernels, against the definition in float64, and where a stack takes them."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library
from subquadratic.layers.norms import native
from subquadratic.layers.norms.native import NativeAddNorm
from subquadratic.layers.residual import Branch, ResidualStack

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


def defined(x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    total = x if delta is None else x + delta
    return total, F.layer_norm(total, x.shape[-1:], weight, bias, epsilon)


def error(found: Tensor, true: Tensor) -> float:
    return float(((found.double() - true).square().mean() / true.square().mean().clamp_min(1e-20)).sqrt().detach())


def compare(rows: int, width: int, *, adds: bool, onward: bool, far: float, seed: int) -> None:
    """``onward``: the stream goes on beside its norm. ``far``: how far from zero the rows' means are."""
    torch.manual_seed(seed)
    x, delta, towards, beside = (torch.randn(2, rows, width) for _ in range(4))
    weight, bias = torch.randn(width), torch.randn(width)

    def results(function: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype, off: Tensor | float = 0.0) -> list[Tensor]:
        leaves = [y.to(dtype).requires_grad_() for y in (x + far, delta, weight, bias)]
        total, y = function(leaves[0] + off, leaves[1] if adds else None, *leaves[2:], 1e-5)
        loss = (y * towards.to(dtype)).sum() + ((total * beside.to(dtype)).sum() if onward else 0.0)
        return [total, y, *torch.autograd.grad(loss, leaves if adds else [leaves[0], *leaves[2:]])]

    mine, theirs, true = results(NativeAddNorm.apply, torch.float32), results(defined, torch.float32), results(defined, torch.float64)
    # A row whose few numbers are nearly the same makes much of a rounding. Those of the usual norm may happen to cancel: so there is also
    # what a rounding of the inputs does.
    size = ((x + far).abs() + (delta.abs() if adds else 0)).double() * 2**-24
    moved: list[list[Tensor]] = []
    for at, (found, usual, right) in enumerate(zip(mine, theirs, true, strict=True)):
        assert found.shape == right.shape
        if error(found, right) < max(1e-5, 4 * error(usual, right)):
            continue
        moved = moved or [results(defined, torch.float64, size * torch.randn_like(size)) for _ in range(8)]
        assert error(found, right) < 4 * max(error(other[at], right) for other in moved)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.sampled_from([1, 2, 3, 50, 129]), width=st.sampled_from([3, 5, 16, 31, 64, 100, 256]), adds=st.booleans(),
    onward=st.booleans(), far=st.sampled_from([0.0, 30.0]), seed=st.integers(0, 10**6),
)  # fmt: skip
@example(rows=1, width=3, adds=True, onward=False, far=30.0, seed=548)  # PyTorch's error is by chance a fifth of a rounding's
def test_values_and_gradients_equal_the_definition(
    lanes: None, rows: int, width: int, adds: bool, onward: bool, far: float, seed: int
) -> None:
    compare(rows, width, adds=adds, onward=onward, far=far, seed=seed)


@pytest.mark.parametrize("threads", [1, 2, 3, 5], indirect=True)
@pytest.mark.parametrize("rows", [1, 2, 70])
def test_any_number_of_threads(rows: int, threads: int) -> None:
    compare(rows, 24, adds=True, onward=True, far=0.0, seed=0)


def test_the_stream_alone_has_its_gradient() -> None:
    x, delta = (torch.randn(1, 4, 8, requires_grad=True) for _ in range(2))
    total, _ = NativeAddNorm.apply(x, delta, torch.ones(8), torch.zeros(8), 1e-5)
    assert all(torch.equal(gradient, torch.full_like(x, 2.0)) for gradient in torch.autograd.grad(2 * total.sum(), [x, delta]))


@pytest.mark.parametrize("adds", [True, False])
def test_operators_are_well_formed(adds: bool) -> None:
    x, delta, weight, bias = torch.randn(9, 20), torch.randn(9, 20), torch.randn(20), torch.randn(20)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.subquadratic.add_norm.default, (x, delta if adds else None, weight, bias, 1e-5), test_utils=checks)
    _, y, stats = native.add_norm(x, None, weight, bias, 1e-5)
    torch.library.opcheck(
        torch.ops.subquadratic.add_norm_backward.default, (delta if adds else None, y, x, weight, stats), test_utils=checks
    )


def stack(norm: str = "layer") -> ResidualStack:
    torch.manual_seed(0)
    return ResidualStack([{"a": Branch(nn.Linear(16, 16), dim=16, norm=norm), "b": Branch(nn.Linear(16, 16), dim=16, norm=norm)}] * 2)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for every norm that the kernels apply: whether something is added before."""
    monkeypatch.setattr(native, "FEWEST_NUMBERS", 1)
    monkeypatch.setattr(native, "has_matrix_unit", lambda: True)  # beside which alone they are taken
    found: list[bool] = []
    usual = NativeAddNorm.apply

    def noted(x: Tensor, delta: Tensor | None, *others: Tensor) -> tuple[Tensor, Tensor]:
        found.append(delta is not None)
        return usual(x, delta, *others)

    monkeypatch.setattr(NativeAddNorm, "apply", noted)
    return found


def test_a_stack_computes_the_same(taken: list[bool]) -> None:
    model, x = stack(), torch.randn(2, 40, 16)
    found = []
    for backend, dtype in (("native", torch.float32), ("torch", torch.float64)):
        own, given = model.to(dtype), x.to(dtype).requires_grad_()
        with use_backend(backend):
            y = own(given)
            found.append([y, *torch.autograd.grad(y.square().sum(), [given, *own.parameters()])])
    assert taken == [False, True, True, True]
    assert all(error(mine, true) < 1e-5 for mine, true in zip(*found, strict=True))


def test_norms_that_somebody_hears_or_replaced_are_called(taken: list[bool]) -> None:
    model, x, heard = stack(), torch.randn(2, 40, 16), []
    norm = model.branches()[0].norm
    right = model(x)
    taken.clear()
    handle = norm.register_forward_hook(lambda *_: heard.append(1))
    torch.testing.assert_close(model(x), right)
    assert heard and len(taken) == 2  # both blocks are the same modules
    handle.remove()
    norm.forward = lambda y: y
    assert not torch.allclose(model(x), right)


def test_what_has_no_layer_norm_goes_the_other_way(taken: list[bool]) -> None:
    x = torch.randn(2, 40, 16)
    stack("scale")(x), stack("rezero")(x)
    stack().double()(x.double())
    plain = stack()
    plain.checkpointing = True
    plain(x.requires_grad_())
    assert not taken
