"""Exact attention and rotary positions by the C kernels against their definitions in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from subquadratic.attention.softmax import native
from subquadratic.attention.softmax.formula import bottom_right_causal, softmax_attention_reference
from subquadratic.attention.softmax.op import softmax_attention
from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library
from subquadratic.layers.rotary.native import FEW_NUMBERS
from subquadratic.layers.rotary.op import complex_product

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


def error(found: Tensor, true: Tensor) -> float:
    """RMS of the difference over that of the truth."""
    return float(((found.double() - true).square().mean() / true.square().mean().clamp_min(1e-12)).sqrt().detach())


def compare(length: int, keys: int, width: int, values_width: int, *, heads: int = 3, causal: bool, spread: float, seed: int) -> None:
    torch.manual_seed(seed)
    shapes = (length, width), (keys, width), (keys, values_width), (length, values_width)
    q, k, v, towards = (torch.randn(2, positions, heads, size).transpose(1, 2) for positions, size in shapes)
    q, k = q * spread, k * spread
    allowed = bottom_right_causal(length, keys, q.device) if causal else torch.ones(length, keys, dtype=torch.bool)
    found, true = [], []
    for results, dtype in ((found, torch.float32), (true, torch.float64)):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
        with use_backend("native" if dtype is torch.float32 else "torch"):
            y = softmax_attention(*leaves, causal=causal) if dtype is torch.float32 else softmax_attention_reference(*leaves, allowed)
        gradients = torch.autograd.grad(y, leaves, towards.to(dtype))
        results += [y, torch.cat([gradient.flatten() for gradient in gradients])]
    for mine, wanted in zip(found, true, strict=True):
        assert error(mine, wanted) < 1e-5


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.one_of(st.integers(16, 150), st.sampled_from([63, 64, 65, 128])), more=st.sampled_from([0, 1, 64, 127, 200]),
    width=st.sampled_from([1, 5, 16, 24, 64]), values_width=st.sampled_from([3, 16, 64]), causal=st.booleans(),
    spread=st.sampled_from([0.3, 1.0, 4.0]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_values_and_gradients_equal_the_definition(
    lanes: None, length: int, more: int, width: int, values_width: int, causal: bool, spread: float, seed: int
) -> None:
    compare(length, length + more, width, values_width, causal=causal, spread=spread, seed=seed)


@pytest.mark.parametrize("threads", [1, 2, 3, 5], indirect=True)
def test_few_keys_and_any_number_of_threads(threads: int) -> None:
    compare(300, 7, 16, 16, heads=1, causal=False, spread=1.0, seed=threads)
    compare(300, 300, 16, 16, heads=1, causal=True, spread=1.0, seed=threads)


def test_the_future_changes_not_a_bit() -> None:
    q, k, v = (torch.randn(1, 2, 150, 16) for _ in range(3))
    with use_backend("native"):
        before = softmax_attention(q, k, v, causal=True)
        for i in (0, 17, 63, 64, 148):
            changed = [x.clone() for x in (q, k, v)]
            for x in changed:
                x[:, :, i + 1 :] = 1e3 * torch.randn_like(x[:, :, i + 1 :])
            assert torch.equal(softmax_attention(*changed, causal=True)[:, :, : i + 1], before[:, :, : i + 1])


def test_what_is_no_number_stays_none() -> None:
    q, k, v = (torch.randn(1, 1, 70, 8) for _ in range(3))
    k[0, 0, 5, 1] = torch.nan
    with use_backend("native"):
        output = softmax_attention(q, k, v, causal=True)
    assert output[0, 0, 5:].isnan().all() and torch.isfinite(output[0, 0, :5]).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("step", [-3.0, -0.3, 0.3, 3.0])
def test_scores_that_climb_or_fall_from_key_to_key(lanes: None, step: float, causal: bool) -> None:
    q, k, v = torch.ones(1, 1, 200, 4), step * torch.arange(400.0).view(1, 1, 400, 1).expand(-1, -1, -1, 4), torch.randn(1, 1, 400, 4)
    k = k + torch.randn_like(k)
    allowed = bottom_right_causal(200, 400, q.device) if causal else torch.ones(200, 400, dtype=torch.bool)
    with use_backend("native"):
        found = softmax_attention(q, k, v, causal=causal)
    # A score near 1,000 has an error of 1e-4 in float32, and so has its weight.
    assert error(found, softmax_attention_reference(q.double(), k.double(), v.double(), allowed)) < 1e-4


def test_keys_infinitely_far_have_no_weight(lanes: None) -> None:
    q, k, v = torch.rand(1, 1, 90, 4) + 1, torch.randn(1, 1, 200, 4), torch.randn(1, 1, 200, 4)
    k[:, :, :130] = -torch.inf
    with use_backend("native"):
        found = softmax_attention(q, k, v, causal=False)
    assert error(found, softmax_attention_reference(q, k[:, :, 130:], v[:, :, 130:], torch.ones(90, 70, dtype=torch.bool)).double()) < 1e-5


def test_keys_that_stand_for_several_heads() -> None:
    q, k, v = torch.randn(1, 4, 40, 16), torch.randn(1, 1, 40, 16, requires_grad=True), torch.randn(1, 1, 40, 16, requires_grad=True)
    found = []
    for backend in ("native", "torch"):
        with use_backend(backend):
            y = softmax_attention(q, k.expand(-1, 4, -1, -1), v.expand(-1, 4, -1, -1), causal=True)
        found.append([y, *torch.autograd.grad(y.square().sum(), (k, v))])
    for mine, wanted in zip(*found, strict=True):
        assert error(mine, wanted.double()) < 1e-5


def test_operators_are_well_formed() -> None:
    q, k, v = (torch.randn(2, 40, 3, 8).transpose(1, 2) for _ in range(3))
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.subquadratic.softmax_attention.default, (q, k, v, True), test_utils=checks)
    y, normaliser = native.softmax_attention(q, k, v, True)
    torch.library.opcheck(
        torch.ops.subquadratic.softmax_attention_backward.default, (torch.randn_like(y), q, k, v, True, y, normaliser), test_utils=checks
    )
    torch.library.opcheck(torch.ops.subquadratic.complex_product.default, (q, torch.randn(40, 8), False), test_utils=checks)


@pytest.mark.parametrize("conjugate", [True, False])
@pytest.mark.parametrize("shape", [(1000, 10), (2, 1, 1000, 10), (2, 3, 1000, 10)])
def test_turns_equal_complex_products(lanes: None, shape: tuple[int, ...], conjugate: bool) -> None:
    x, y = torch.randn(2, 1000, 3, 10).transpose(1, 2), torch.randn(shape)
    with use_backend("native"):
        found = complex_product(x, y, conjugate=conjugate)

    def parts(z: Tensor) -> Tensor:
        return torch.complex(*z.double().chunk(2, dim=-1))

    true = parts(x) * (parts(y).conj() if conjugate else parts(y))
    assert x.numel() > FEW_NUMBERS
    assert error(found, torch.cat((true.real, true.imag), dim=-1)) < 1e-6


@pytest.mark.parametrize("narrow", [0, 1])
def test_widths_that_do_not_fit_are_refused_as_by_pytorch(narrow: int) -> None:
    tensors = [torch.randn(1, 2, 64, 8) for _ in range(3)]
    tensors[narrow] = tensors[narrow][..., :-1]
    with pytest.raises(RuntimeError):
        softmax_attention(*tensors)
