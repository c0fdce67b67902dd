"""The feed-forward layer by the C kernels against its definition in float64, and when the layer takes them."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library
from subquadratic.layers.feed_forward import layer as layers
from subquadratic.layers.feed_forward import native
from subquadratic.layers.feed_forward.layer import FeedForward
from subquadratic.layers.feed_forward.native import NativeFeedForward

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


def defined(x: Tensor, expand: Tensor, expand_bias: Tensor, contract: Tensor, contract_bias: Tensor) -> Tensor:
    inner = F.linear(x, expand, expand_bias)
    if len(expand) == contract.shape[1]:
        return F.linear(F.gelu(inner), contract, contract_bias)
    gates, values = inner.chunk(2, dim=-1)
    return F.linear(F.gelu(gates) * values, contract, contract_bias)


def drawn(rows: int, dim: int, wide: int, out: int, *, gated: bool = False, spread: float = 1.0) -> list[Tensor]:
    expand = torch.randn(wide * (1 + gated), dim) * spread / dim**0.5
    return [torch.randn(rows, dim), expand, torch.randn(len(expand)), torch.randn(out, wide) / wide**0.5, torch.randn(out)]


def error(found: Tensor, true: Tensor) -> float:
    """RMS of the difference over that of the truth."""
    return float(((found.double() - true).square().mean() / true.square().mean().clamp_min(1e-30)).sqrt().detach())


def compare(arguments: list[Tensor], most: float = 3e-6) -> None:
    """Sums may cancel: an error may also be a few times that of PyTorch in float32."""
    dtypes = torch.float32, torch.float32, torch.float64
    mine, usual, true = ([x.clone().to(dtype).requires_grad_() for x in arguments] for dtype in dtypes)
    results = NativeFeedForward.apply(*mine), defined(*usual), defined(*true)
    towards = torch.randn_like(results[0])
    gradients = [torch.autograd.grad(y, x, towards.to(y.dtype)) for y, x in zip(results, (mine, usual, true), strict=True)]
    names = ("y", "x", "expand", "expand_bias", "contract", "contract_bias")
    for name, *found, right in zip(names, *([y, *more] for y, more in zip(results, gradients, strict=True)), strict=True):
        ours, theirs = (error(x, right) for x in found)
        assert ours < max(most, 5 * theirs), name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.one_of(st.integers(1, 300), st.sampled_from([252, 253, 505])), dim=st.sampled_from([2, 5, 16, 24, 65, 96]),
    wide=st.sampled_from([3, 17, 64, 100, 256, 260, 300]), out=st.sampled_from([2, 7, 16, 48, 70]), gated=st.booleans(),
    spread=st.sampled_from([0.1, 1.0, 5.0]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_values_and_gradients_equal_the_definition(
    lanes: None, rows: int, dim: int, wide: int, out: int, gated: bool, spread: float, seed: int
) -> None:
    torch.manual_seed(seed)
    compare(drawn(rows, dim, wide, out, gated=gated, spread=spread), 1e-5)


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_the_last_digit_does_not_depend_on_what_memory_held(lanes: None, threads: int) -> None:
    """A width that fills no tile: what stands in the rest of one is multiplied too."""
    arguments, wider = drawn(64, 100, 63, 24, gated=True), drawn(64, 100, 64, 24, gated=True)
    found = []
    for held in (1.0, float("nan")):
        for _ in range(3):  # until the memory is that of the call before
            native.feed_forward(torch.full_like(wider[0], held), *wider[1:], False)
        found.append(native.feed_forward(*arguments, False)[0])
    assert torch.equal(*found)


@pytest.mark.parametrize("threads", [1, 2, 3, 5], indirect=True)
@pytest.mark.parametrize("gated", [True, False])
def test_any_number_of_threads(gated: bool, threads: int) -> None:
    arguments = drawn(1100, 40, 96, 24, gated=gated)
    assert native.shares_of(1100, arguments[3]) == threads
    compare(arguments)
    compare(drawn(7, 40, 96, 24, gated=gated))  # fewer rows than would pay for a share each


def gelus(x: Tensor) -> Tensor:
    """GELU of numbers, through a layer whose maps are the identity."""
    rows, one, none = x.view(-1, 16), torch.eye(16), torch.zeros(16)
    return NativeFeedForward.apply(rows, one, none, one, none).view(-1)


def test_gelu_to_the_last_digits_in_both_tails(lanes: None) -> None:
    x = torch.linspace(-13, 13, 16 * 4000)
    true = 0.5 * x.double() * torch.special.erfc(-x.double() / 2**0.5)
    off = (gelus(x) - true).abs() / true.abs().clamp_min(1e-32)  # of less a matrix unit keeps fewer digits
    assert off[x.abs() < 5].max() < 3e-6 and off.max() < 2e-5  # where PyTorch's own, below -5, has no digit right
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(gelus(x).sum(), x)
    share, density = torch.special.ndtr(x.double()), torch.exp(-x.double().square() / 2) / (2 * torch.pi) ** 0.5
    assert (slope - (share + x * density)).abs().max() < 4e-7


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e38, -1e38, -3e20, 1e-40, 0.0])
def test_what_is_no_number_stays_none(lanes: None, value: float) -> None:
    one = torch.ones(1, 1), torch.zeros(1)
    y = NativeFeedForward.apply(torch.full((16, 1), value), *one, *one)
    torch.testing.assert_close(y, F.gelu(torch.full((16, 1), value, dtype=torch.float64)).float(), equal_nan=True)


def test_a_row_does_not_depend_on_the_others() -> None:
    x, *weights = drawn(600, 24, 100, 24)
    whole = NativeFeedForward.apply(x, *weights)
    other = torch.cat((x[:300], 1e3 * torch.randn(500, 24)))
    assert torch.equal(NativeFeedForward.apply(other, *weights)[:300], whole[:300])


def test_only_what_is_wanted_is_made() -> None:
    arguments = drawn(300, 16, 64, 16)
    for wanted in ([0], [1, 2, 3, 4], [3]):
        leaves = [x.clone().requires_grad_(i in wanted) for i, x in enumerate(arguments)]
        found = torch.autograd.grad(NativeFeedForward.apply(*leaves).square().sum(), [leaves[i] for i in wanted])
        true = torch.autograd.grad(defined(*leaves).square().sum(), [leaves[i] for i in wanted])
        assert all(error(mine, right.double()) < 3e-6 for mine, right in zip(found, true, strict=True))
    made = native.feed_forward_backward(
        torch.randn(300, 16), *arguments[:2], arguments[3], native.feed_forward(*arguments, True)[1], True, False
    )
    assert [x.numel() for x in made] == [300 * 16, 0, 0, 0, 0]


def test_kept_is_what_comes_before_the_activation_alone() -> None:
    leaves, kept = [x.requires_grad_() for x in drawn(300, 16, 64, 16)], 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        NativeFeedForward.apply(*leaves)
    assert kept == 300 * 16 + 300 * 64 + 2 * 16 * 64 + 16 + 64  # of which the parameters are the model's own


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_operators_are_well_formed(gated: bool, keep: bool) -> None:
    arguments = drawn(40, 10, 20, 6, gated=gated)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.subquadratic.feed_forward.default, (*arguments, keep), test_utils=checks)
    y, inner = native.feed_forward(*arguments, keep)
    x, expand, _, contract, _ = arguments
    for wants in ((True, True), (True, False), (False, True)) if keep else ():
        torch.library.opcheck(
            torch.ops.subquadratic.feed_forward_backward.default,
            (torch.randn_like(y), x, expand, contract, inner, *wants),
            test_utils=checks,
        )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the kernel had."""
    rows: list[int] = []

    class Noted(NativeFeedForward):
        @staticmethod
        def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
            rows.append(len(x))
            return NativeFeedForward.forward(ctx, x, *arguments)

    monkeypatch.setattr(layers, "NativeFeedForward", Noted)
    return rows


@pytest.mark.parametrize("options", [{}, {"glu": True}, {"chunks": 2}, {"mult": 2.5}])
def test_the_layer_computes_the_same_by_its_kernel(options: dict[str, Any], calls: list[int]) -> None:
    layer, x = FeedForward(24, **options), torch.randn(4, 200, 24)
    found = []
    for backend in ("native", "torch"):
        with use_backend(backend):
            y = layer(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), layer.parameters())])
    assert sum(calls) == 800
    assert all(error(mine, true.double()) < 3e-6 for mine, true in zip(*found, strict=True))


def test_the_layer_leaves_to_pytorch_what_the_kernel_does_not_do(calls: list[int]) -> None:
    x = torch.randn(2, 300, 24)
    few, wide, double = FeedForward(24), FeedForward(24, mult=3000), FeedForward(24).double()
    dropping, adapted, heard, frozen = FeedForward(24, dropout=0.5), FeedForward(24), FeedForward(24), FeedForward(24)
    few(x[:1, :40]), wide(x), double(x.double()), dropping(x)
    with torch.autocast("cpu"):
        few(x)
    with use_backend("torch"):
        few(x)
    adapted.expand = nn.Sequential(adapted.expand)  # type: ignore[assignment]
    adapted(x)
    heads = []
    heard.expand.register_forward_hook(lambda module, given, y: heads.append(y.shape))
    heard(x)
    everywhere = nn.modules.module.register_module_forward_hook(lambda module, given, y: None)
    frozen(x)
    everywhere.remove()
    torch.func.vmap(frozen)(x[:, None])
    assert calls == [] and heads == [(2, 300, 96)]
    dropping.eval()(x)
    assert calls == [600]


def test_an_estimate_on_shapes_alone_goes_the_same_way(calls: list[int]) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        y = FeedForward(24)(torch.randn(1, 300, 24, requires_grad=True))
        y.sum().backward()
    assert calls == [300] and y.shape == (1, 300, 24)


def test_a_width_that_does_not_fit_is_refused_as_by_pytorch() -> None:
    with pytest.raises(RuntimeError):
        FeedForward(16)(torch.randn(1, 300, 15))
