"""Running softmax means by the C kernels, and causal additive attention made of them, against their definitions in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from subquadratic.attention import AdditiveAttention
from subquadratic.attention.additive import native_running as kernel
from subquadratic.attention.additive.formula import running_mean_by_formula, running_softmax_mean_reference
from subquadratic.attention.additive.native_running import NativeRunningMean
from subquadratic.attention.additive.op import running_softmax_mean
from subquadratic.attention.additive.state import PoolState
from subquadratic.core.backend import use_backend
from subquadratic.core.numerics import EMPTY
from subquadratic.kernels.native import library
from subquadratic.layers.rotary.op import complex_product

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


def drawn(batch: int, heads: int, length: int, width: int, *, spread: float = 1.0, empty: bool = False) -> list[Tensor]:
    """Logits, values, queries, and the weight, total and maximum before."""
    logits = torch.randn(batch, heads, length) * spread
    values, queries = (torch.randn(batch, length, heads, width).transpose(1, 2) for _ in range(2))
    weight, total, maximum = torch.rand(batch, heads, 1) + 0.5, torch.randn(batch, heads, width), torch.randn(batch, heads, 1) * spread
    if empty:
        weight, total, maximum = torch.zeros_like(weight), torch.zeros_like(total), torch.full_like(maximum, EMPTY)
    return [logits, values, queries, weight, total, maximum]


def defined(
    logits: Tensor, values: Tensor, queries: Tensor | None, weight: Tensor, total: Tensor, turns: Tensor | None, mask: Tensor | None,
    maximum: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """By operations that autograd follows."""
    values = values if turns is None else complex_product(values, turns)
    state = PoolState(maximum, weight, total)
    mean, after = running_mean_by_formula(logits, values, mask, state, None)
    if queries is not None and turns is not None:
        mean = complex_product(complex_product(queries, turns), mean, conjugate=True)
    elif queries is not None:
        mean = queries * mean
    return mean, after.maximum, after.weight, after.total


def error(found: Tensor, true: Tensor) -> float:
    return float(((found.double() - true).square().mean() / true.square().mean().clamp_min(1e-30)).sqrt().detach())


def compare(
    arguments: list[Tensor], turns: Tensor | None = None, mask: Tensor | None = None, *, read: bool = True, spread: float = 1.0
) -> None:
    """Errors may be 1e-5 of the truth, more where logits are larger and so is their rounding, or some times those of PyTorch in float32. A
    logit's gradient is a difference of inner products of whole values, of which its share of the sum may leave little."""
    torch.manual_seed(0)
    dtypes = torch.float32, torch.float32, torch.float64
    results, gradients = [], []
    for dtype, function in zip(dtypes, (NativeRunningMean.apply, defined, defined), strict=True):
        *leaves, maximum = (x.clone().to(dtype).requires_grad_(i < 5) for i, x in enumerate(arguments))
        leaves[2] = leaves[2] if read else None
        found = function(*leaves, None if turns is None else turns.to(dtype), mask, maximum)
        output, _, *after = found
        towards = [torch.randn(x.shape, generator=torch.Generator().manual_seed(i)).to(dtype) for i, x in enumerate((output, *after))]
        wanted = [x for x in leaves if x is not None]
        gradients.append(torch.autograd.grad((output, *after), wanted, towards, materialize_grads=True))
        results.append(found)
    names = ["y", "maximum", "weight", "total", "logits", "values", *(["queries"] if read else []), "weight before", "total before"]
    live = arguments[0].shape[2] if mask is None else max(1, int(mask.sum(dim=1).min()))
    terms = {"logits": float(arguments[1].double().square().sum(dim=-1).mean().sqrt()) / live}
    for name, mine, theirs, right in zip(names, *([*y, *more] for y, more in zip(results, gradients, strict=True)), strict=True):
        few = 1e-6 * terms.get(name, 0.0) / max(float(right.detach().square().mean().sqrt()), 1e-30)
        assert mine.shape == right.shape and error(mine, right) < max(1e-5 * max(spread, 1), 10 * error(theirs, right), few), name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 2), heads=st.integers(1, 5), length=st.one_of(st.integers(1, 200), st.sampled_from([64, 65, 128, 700])),
    width=st.sampled_from([1, 2, 5, 16, 24, 40, 64, 70]), turned=st.sampled_from(["not", "alike", "by row"]), masked=st.booleans(),
    read=st.booleans(), empty=st.booleans(), spread=st.sampled_from([0.1, 1.0, 10.0]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_values_and_gradients_equal_the_definition(
    lanes: None, batch: int, heads: int, length: int, width: int, turned: str, masked: bool, read: bool, empty: bool, spread: float,
    seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    turns = {"not": None, "alike": torch.randn(length, width), "by row": torch.randn(batch, 1, length, width)}[turned]
    mask = torch.rand(batch, length) > 0.4 if masked else None
    arguments = drawn(batch, heads, length, width, spread=spread, empty=empty)
    compare(arguments, turns if width % 2 == 0 else None, mask, read=read, spread=spread)


@pytest.mark.parametrize("threads", [1, 2, 3, 5], indirect=True)
def test_any_number_of_threads(threads: int) -> None:
    torch.manual_seed(0)
    compare(drawn(2, 3, 300, 16), torch.randn(300, 16))


def test_the_oracle_agrees() -> None:
    torch.manual_seed(0)
    logits, values = drawn(2, 3, 150, 8, spread=5.0)[:2]
    for mask in (None, torch.rand(2, 150) > 0.4):
        found, _ = running_softmax_mean(logits, values, mask, backend="native")
        assert error(found, running_softmax_mean_reference(logits.double(), values.double(), mask)) < 1e-5


def test_in_pieces() -> None:
    torch.manual_seed(0)
    logits, values = drawn(2, 3, 400, 8, spread=5.0)[:2]
    whole, last = running_softmax_mean(logits, values)
    state, parts = None, []
    for a, b in ((0, 1), (1, 3), (3, 170), (170, 399), (399, 400)):
        part, state = running_softmax_mean(logits[..., a:b], values[..., a:b, :], state=state)
        parts.append(part)
    for found, right in zip((torch.cat(parts, dim=2), *state.tensors()), (whole, *last.tensors()), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_what_comes_later_reaches_nothing(lanes: None) -> None:
    torch.manual_seed(0)
    logits, values, queries, weight, total, maximum = drawn(1, 2, 200, 16)
    others = [torch.cat((x[:, :, :143], 1e30 * torch.randn_like(x[:, :, 143:])), dim=2) for x in (logits, values, queries)]
    a, b = (NativeRunningMean.apply(*x, weight, total, None, None, maximum)[0] for x in ((logits, values, queries), others))
    assert torch.equal(a[:, :, :143], b[:, :, :143]) and not torch.equal(a[:, :, 143:], b[:, :, 143:])


def test_what_is_no_number_stays_none_and_among_what_follows() -> None:
    logits, values, _, weight, total, maximum = drawn(1, 2, 200, 8)
    logits[0, 0, 70] = torch.nan
    values[0, 1, 100, 3] = torch.nan
    found = NativeRunningMean.apply(logits, values, None, weight, total, None, None, maximum)[0].isnan()
    assert found[0, 0, 70:].all() and not found[0, 0, :70].any()
    assert found[0, 1, 100:, 3].all() and not found[0, 1, :100].any() and not found[0, 1, :, :3].any()


def test_padding_may_hold_anything() -> None:
    torch.manual_seed(0)
    logits, values, queries, *state = drawn(2, 2, 150, 8, empty=True)
    mask = torch.rand(2, 150) > 0.4
    mask[1] = False
    found = []
    for content in (0.0, torch.nan):
        held = [logits.masked_fill(~mask[:, None], content), values.masked_fill(~mask[:, None, :, None], content)]
        inputs = [x.requires_grad_() for x in (*held, queries.clone())]
        output, *after = NativeRunningMean.apply(*inputs, *state[:2], torch.ones(150, 8), mask, state[2])
        gradients = torch.autograd.grad(output.square().sum() + after[2].square().sum(), inputs)
        assert not output[1].any() and not gradients[1][1].any()
        found.append((output, *after, *gradients))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_accurate_over_a_long_sequence() -> None:
    torch.manual_seed(0)
    logits, values = torch.randn(1, 1, 300_000), torch.randn(1, 1, 300_000, 2) + 3
    leaves, true = ([x.to(dtype).requires_grad_() for x in (logits, values)] for dtype in (torch.float32, torch.float64))
    towards = torch.randn(1, 1, 300_000, 2) + 1
    (found, _), (right, _) = running_softmax_mean(*leaves, backend="native"), running_softmax_mean(*true)
    assert error(found, right) < 2e-6
    for mine, wanted in zip(torch.autograd.grad(found, leaves, towards), torch.autograd.grad(right, true, towards.double()), strict=True):
        assert error(mine, wanted) < 1e-5


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_the_layer_computes_the_same_by_its_kernels(rotary: bool, share: bool, masked: bool) -> None:
    torch.manual_seed(0)
    layer = AdditiveAttention(24, heads=3, causal=True, rotary=rotary, share_query_value=share)
    x, mask = torch.randn(2, 150, 24), torch.rand(2, 150) > 0.3 if masked else None
    found = []
    for backend, dtype in (("native", torch.float32), ("torch", torch.float64)):
        own, given = layer.to(dtype), x.to(dtype).requires_grad_()
        with use_backend(backend):
            y = own(given, mask=mask)
            state, pieces = own.init_state(2), []
            for a, b in ((0, 70), (70, 71), (71, 150)):
                piece, state = own.extend(given[:, a:b], state, mask=None if mask is None else mask[:, a:b])
                pieces.append(piece)
        found.append([y, torch.cat(pieces, dim=1), *torch.autograd.grad(y.square().sum(), [given, *own.parameters()])])
    assert all(error(mine, true) < 1e-5 for mine, true in zip(*found, strict=True))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("turned", ["not", "alike", "by row"])
def test_operators_are_well_formed(turned: str, read: bool, keep: bool) -> None:
    logits, values, queries, weight, total, maximum = drawn(2, 3, 70, 8)
    turns = {"not": None, "alike": torch.randn(70, 8), "by row": torch.randn(2, 1, 70, 8)}[turned]
    checks, mask = ("test_schema", "test_faketensor"), torch.rand(2, 70) > 0.3
    arguments = (logits, values, queries if read else None, turns, mask)
    torch.library.opcheck(torch.ops.subquadratic.running_mean.default, (*arguments, maximum, weight, total, keep), test_utils=checks)
    if keep:
        output, _, *after, kept = kernel.running_mean(*arguments, maximum, weight, total, True)
        torch.library.opcheck(
            torch.ops.subquadratic.running_mean_backward.default, (torch.randn_like(output), *after, *arguments, kept), test_utils=checks
        )


def test_when_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    usual = kernel.read_mean

    def noted(logits: Tensor, *others: Tensor) -> tuple[Tensor, PoolState]:
        taken.append(logits.shape[2])
        return usual(logits, *others)

    monkeypatch.setattr(kernel, "read_mean", noted)
    logits, values = drawn(1, 2, 64, 8)[:2]
    running_softmax_mean(logits, values)
    assert taken == [64]
    running_softmax_mean(logits[..., :1], values[..., :1, :])
    running_softmax_mean(logits.double(), values)
    running_softmax_mean(logits, values.double())
    running_softmax_mean(logits, values.bfloat16())
    running_softmax_mean(logits, values, cu_seqlens=torch.tensor([0, 20, 64]))
    with use_backend("torch"):
        running_softmax_mean(logits, values)
    assert taken == [64]


def test_what_does_not_fit_goes_the_other_way() -> None:
    logits, values, _, weight, total, maximum = drawn(2, 2, 64, 8)
    with pytest.raises(RuntimeError):
        running_softmax_mean(logits, values, state=PoolState(maximum, weight, total[..., :-1]))
    with pytest.raises(RuntimeError):
        running_softmax_mean(logits, values, state=PoolState(maximum[:, :1], weight[:, :1], total[:, :1].expand(2, 3, 8)))
    with pytest.raises(RuntimeError):
        running_softmax_mean(logits, values, state=PoolState(maximum.double(), weight, total))
    layer = AdditiveAttention(16, heads=2, causal=True, rotary=True)
    with pytest.raises(RuntimeError):
        layer(torch.randn(1, 64, 16), turns=torch.randn(63, 8))
