"""Products by the matrix unit, by way of linear maps and their weights' gradients: against float64, and where float32 has its edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from subquadratic.kernels.native.library import has_matrix_unit
from subquadratic.layers.linear import native

pytestmark = pytest.mark.skipif(not has_matrix_unit(), reason="no matrix unit here")
WIDTHS = st.sampled_from([1, 3, 15, 16, 17, 31, 32, 33, 48, 64, 100, 513, 700])


def off(found: Tensor, true: Tensor, size: Tensor) -> float:
    """The largest error beside the sum of the absolute values of what was added up."""
    return float(((found.double() - true).abs() / size.clamp_min(1e-30)).max())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 300), dim=WIDTHS, out=WIDTHS, bias=st.booleans(), turned=st.booleans(),
    spread=st.sampled_from([1.0, 1e-10, 1e10]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_a_map_is_as_exact_as_float32(rows: int, dim: int, out: int, bias: bool, turned: bool, spread: float, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, dim + 3)[:, 2:-1] * spread, torch.randn(out, dim) * torch.randn(out, 1).exp()
    added = torch.randn(out) if bias else None
    given_weight = weight.T.contiguous() if turned else weight
    true = F.linear(x.double(), weight.double(), None if added is None else added.double())
    size = x.double().abs() @ weight.double().abs().T + (0 if added is None else added.double().abs())
    assert off(native.linear_maps([x], [given_weight.T if turned else given_weight], [added], None)[0], true, size) < 3e-7


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 1500), dim=WIDTHS, out=WIDTHS, wants=st.booleans(), seed=st.integers(0, 10**6))
def test_a_sum_is_as_exact_as_float32(rows: int, dim: int, out: int, wants: bool, seed: int) -> None:
    torch.manual_seed(seed)
    other, x = torch.randn(rows, out + 2)[:, 1:-1], torch.randn(rows, dim)
    found, total = native.sums_of_outer_products([other], [x], [wants])
    assert off(found, other.double().T @ x.double(), other.double().abs().T @ x.double().abs()) < 5e-7
    assert total.shape == (out * wants,)
    if wants:
        assert off(total, other.double().sum(dim=0), other.double().abs().sum(dim=0)) < 1e-5


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 400), dims=st.lists(WIDTHS, min_size=1, max_size=4), outs=st.lists(WIDTHS, min_size=1, max_size=4),
    bias=st.booleans(), turned=st.booleans(), plus=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_several_maps_at_once(rows: int, dims: list[int], outs: list[int], bias: bool, turned: bool, plus: bool, seed: int) -> None:
    torch.manual_seed(seed)
    xs, others = ([torch.randn(rows, width + 1)[:, 1:] for width in widths] for widths in (dims, outs))
    weights = [torch.randn(dim, out).T if turned else torch.randn(out, dim) for dim in dims for out in outs]
    biases = [torch.randn(out) if bias else None for out in outs]
    found = native.linear_maps(xs, weights, biases, others[0] if plus else None)
    sums = native.sums_of_outer_products(others, xs, [bias] * len(outs))
    for j, (out, mine) in enumerate(zip(outs, found, strict=True)):
        terms = [biases[j]] if bias else []
        terms += [others[0]] if plus and j == 0 else []
        added = sum((term.double() for term in terms), torch.zeros(rows, out).double())
        pairs = [(x.double(), weights[i * len(outs) + j].double()) for i, x in enumerate(xs)]
        size = sum(x.abs() @ weight.abs().T for x, weight in pairs) + sum((term.abs() for term in terms), torch.zeros(rows, out))
        assert off(mine, sum(x @ weight.T for x, weight in pairs) + added, size) < 6e-7
        for i, x in enumerate(xs):
            other, into = others[j].double().T, x.double()
            assert off(sums[i * len(outs) + j], other @ into, other.abs() @ into.abs()) < 5e-7
        if bias:
            true = others[j].double()
            assert off(sums[len(dims) * len(outs) + j], true.sum(dim=0), true.abs().sum(dim=0)) < 1e-5


def test_its_error_is_below_that_of_the_usual_product() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2000, 512), torch.randn(256, 512)
    true = F.linear(x.double(), weight.double())
    mine, usual = ((found - true).square().mean() for found in (native.linear_maps([x], [weight], [None], None)[0], F.linear(x, weight)))
    assert mine < usual


@pytest.mark.parametrize("threads", [1, 2, 3, 5], indirect=True)
def test_any_number_of_threads(threads: int) -> None:
    torch.manual_seed(0)
    x, weight, other = torch.randn(1001, 70), torch.randn(90, 70), torch.randn(1001, 90)
    torch.testing.assert_close(native.linear_maps([x], [weight], [None], None)[0], F.linear(x, weight), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(native.sums_of_outer_products([other], [x], [False])[0], other.T @ x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3.4e38, -3.39e38, 1e38, 1e-38, 1e-42, 0.0, -0.0])
@pytest.mark.parametrize("place", [0, 17, 40])
def test_where_float32_has_its_edges(value: float, place: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(40, 50), torch.randn(35, 50).abs() + 0.1
    x[7, place], weight[:, 41] = value, 0.0
    found, true = native.linear_maps([x], [weight], [None], None)[0], F.linear(x, weight)
    assert torch.equal(found.isnan(), true.isnan()) and torch.equal(found.isposinf(), true.isposinf())
    assert torch.equal(found.isneginf(), true.isneginf())
    some = true.isfinite()
    torch.testing.assert_close(found[some], true[some], rtol=5e-3 if abs(value) > 3.38e38 else 1e-5, atol=1e-5)
    (other,) = native.linear_maps([torch.randn(40, 50).index_copy(0, torch.arange(7), x[:7])], [weight], [None], None)
    assert torch.equal(found[:7], other[:7])  # whatever the other rows hold


def test_infinities_in_both() -> None:
    x, weight = torch.ones(3, 64), torch.ones(5, 64)
    x[0, 3], weight[1, 3], weight[2, 9], x[2, 9] = torch.inf, -2.0, torch.inf, 0.0
    assert torch.equal(native.linear_maps([x], [weight], [None], None)[0].nan_to_num(123.0), F.linear(x, weight).nan_to_num(123.0))


def test_operators_are_well_formed() -> None:
    checks = ("test_schema", "test_faketensor")
    x, weight, bias, other = torch.randn(40, 10), torch.randn(20, 10), torch.randn(20), torch.randn(40, 20)
    torch.library.opcheck(torch.ops.subquadratic.linear_maps.default, ([x], [weight], [bias], other), test_utils=checks)
    torch.library.opcheck(
        torch.ops.subquadratic.linear_maps.default,
        ([x, other], [weight, weight[:, :1] * weight.new_ones(20)], [None], None),
        test_utils=checks,
    )
    for wants in (True, False):
        torch.library.opcheck(torch.ops.subquadratic.sums_of_outer_products.default, ([other, x], [x], [wants, True]), test_utils=checks)
