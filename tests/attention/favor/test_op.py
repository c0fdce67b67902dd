"""FAVOR+ with its own backward against the definition, formed in the logarithm in float64, and against autograd."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subquadratic.attention.favor import causal as by_hand
from subquadratic.attention.favor import chunks
from subquadratic.attention.favor.features import orthogonal_gaussian, softmax_exponents
from subquadratic.attention.favor.formula import linear_attention_reference
from subquadratic.attention.favor.op import causal_favor, read_favor, summarise_favor
from subquadratic.attention.favor.state import FeatureState
from subquadratic.core.backend import use_backend

WIDTH, FEATURES = 6, 9


def inputs(batch: int, heads: int, length: int, *, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values laid out as a layer's maps make them, and a projection; float64."""
    torch.manual_seed(seed)
    q, k, v = (torch.randn(batch, length, heads, WIDTH, dtype=torch.float64).transpose(1, 2) for _ in range(3))
    return q * spread, k * spread, v, orthogonal_gaussian(FEATURES, WIDTH, dtype=torch.float64)


def definition(q: Tensor, k: Tensor, v: Tensor, projection: Tensor, *, causal: bool, mask: Tensor | None = None) -> Tensor:
    log_queries, log_keys = (softmax_exponents(x, projection)[0] for x in (q, k))
    return linear_attention_reference(log_queries, log_keys, v, causal=causal, mask=mask)


def attend(q: Tensor, k: Tensor, v: Tensor, projection: Tensor, *, causal: bool, mask: Tensor | None = None, block: int = 16) -> Tensor:
    if causal:
        return causal_favor(q, k, v, projection, mask=mask, chunk=8, block=block)[0]
    return read_favor(q, summarise_favor(k, v, projection, mask, block=block), projection, block=block)


def keeping(*, every: bool, features: bool = False) -> AbstractContextManager[object]:
    """For backward, the summaries of all chunks, or of blocks alone; and features, or none."""
    most = by_hand.MOST_KEPT if every else 0, by_hand.MOST_FEATURES if features else 0
    return patch.multiple(by_hand, MOST_KEPT=most[0], MOST_FEATURES=most[1])


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 50), block=st.integers(1, 3), seed=st.integers(0, 10**6), masked=st.booleans(), causal=st.booleans(),
    spread=st.sampled_from((0.3, 1.0, 5.0)), every=st.booleans(), features=st.booleans(),
)  # fmt: skip
def test_values_and_gradients_equal_the_definition(
    length: int, block: int, seed: int, masked: bool, causal: bool, spread: float, every: bool, features: bool
) -> None:
    *given, projection = inputs(2, 2, length, spread=spread, seed=seed)
    q, k, v = (x.requires_grad_() for x in given)
    mask = torch.rand(2, length) > 0.3 if masked else None
    with keeping(every=every, features=features):
        output = attend(q, k, v, projection, causal=causal, mask=mask, block=8 * block)
    expected = definition(q, k, v, projection, causal=causal, mask=mask)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)
    towards = torch.randn_like(output)
    for mine, true in zip(*(torch.autograd.grad(y, (q, k, v), towards) for y in (output, expected)), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck(causal: bool) -> None:
    *given, projection = inputs(2, 2, 11)
    q, k, v = (x.requires_grad_() for x in given)
    mask = torch.rand(2, 11) > 0.3
    mask[0] = False  # a row without a token
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, projection, causal=causal, mask=mask, block=8), (q, k, v))


def test_gradcheck_through_the_state() -> None:
    *given, projection = inputs(1, 2, 21)
    q, k, v = (x.requires_grad_() for x in given)
    total = torch.rand(1, 2, FEATURES, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(1, 2, FEATURES, dtype=torch.float64) + 0.1
    before = FeatureState(total, weight, torch.full_like(weight[..., :1], 0.5))
    weight = before.weight.requires_grad_()

    def run(q: Tensor, k: Tensor, v: Tensor, total: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        state = FeatureState(total, weight, before.maximum)
        output, after = causal_favor(q, k, v, projection, state, chunk=4, block=8)
        scale = after.maximum.exp()  # the state is relative to its maximum, which is constant for autograd
        return output, after.total * scale[..., None].detach(), after.weight * scale.detach()

    analytic = torch.autograd.grad([y.sum() for y in run(q, k, v, before.total, weight)], (q, k, v, before.total, weight))
    from_formula = _through_formula(q, k, v, projection, before, weight)
    for mine, true in zip(analytic, from_formula, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-8, atol=1e-10)


def _through_formula(q: Tensor, k: Tensor, v: Tensor, projection: Tensor, before: FeatureState, weight: Tensor) -> list[Tensor]:
    """The same by the sums themselves, unstabilised, with autograd."""
    features_q, features_k = (softmax_exponents(x, projection)[0].exp() for x in (q, k))
    base = before.maximum.exp()
    totals = (features_k[..., None] * v[..., None, :]).cumsum(dim=2) + (base[..., None] * before.total)[:, :, None]
    weights = features_k.cumsum(dim=2) + (base * weight)[:, :, None]
    output = torch.einsum("bhnm,bhnmk->bhnk", features_q, totals) / (features_q * weights).sum(dim=-1, keepdim=True)
    found = torch.autograd.grad([output.sum(), totals[:, :, -1].sum(), weights[:, :, -1].sum()], (q, k, v, before.total, weight))
    return list(found)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), max_size=5), masked=st.booleans())
def test_pieces_equal_the_whole(cuts: list[int], masked: bool) -> None:
    q, k, v, projection = inputs(2, 2, 40)
    mask = torch.rand(2, 40) > 0.3 if masked else None
    whole, last = causal_favor(q, k, v, projection, mask=mask, chunk=8, block=16)
    state, parts = None, []
    for a, b in itertools.pairwise([0, *sorted(set(cuts)), 40]):
        part, state = causal_favor(
            q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], projection, state, mask=None if mask is None else mask[:, a:b], chunk=8
        )
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=1e-9, atol=1e-10)
    assert state is not None
    # A sum's stabiliser may be one number or another: what is stabilised counts.
    for a, b in ((state.total, last.total), (state.weight[..., None], last.weight[..., None])):
        torch.testing.assert_close(a * state.maximum[..., None].exp(), b * last.maximum[..., None].exp(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("grad", [True, False])
def test_token_by_token_equals_the_whole(grad: bool) -> None:
    q, k, v, projection = inputs(2, 2, 20)
    mask = torch.rand(2, 20) > 0.3
    v.requires_grad_(grad)
    whole, _ = causal_favor(q, k, v, projection, mask=mask)
    state, parts = None, []
    for i in range(20):
        part, state = causal_favor(*(x[:, :, i : i + 1] for x in (q, k, v)), projection, state, mask=mask[:, i : i + 1])
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=1e-9, atol=1e-10)


def test_features_of_either_sign_go_token_by_token() -> None:
    """Their normaliser may be negative."""
    q, k, v = torch.randn(3, 1, 2, 30, 8, dtype=torch.float64)
    outputs, state = [], None
    with torch.no_grad():
        for at in range(30):
            y, state = causal_favor(*(x[..., at : at + 1, :] for x in (q, k, v)), None, state)
            outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=-2), causal_favor(q, k, v, None)[0])


@pytest.mark.parametrize(("every", "features"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("bounds", [[0, 30], [0, 1, 9, 30], [0, 7, 7, 8, 24, 30, 30]])
def test_packed_documents_are_as_if_alone(bounds: list[int], every: bool, features: bool) -> None:
    *given, projection = inputs(1, 2, 30)
    q, k, v = (x.requires_grad_() for x in given)
    cuts = torch.tensor(bounds)
    with keeping(every=every, features=features):
        output, state = causal_favor(q, k, v, projection, cu_seqlens=cuts, chunk=4, block=8)
    alone, states = [], []
    for a, b in itertools.pairwise(bounds):
        if a < b:
            y, after = causal_favor(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], projection, chunk=4, block=8)
            alone.append(y)
            states.append(after)
    expected = torch.cat(alone, dim=2)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    real = torch.tensor([a < b for a, b in itertools.pairwise(bounds)])
    for name in ("total", "weight", "maximum"):
        torch.testing.assert_close(getattr(state, name)[real], torch.cat([getattr(one, name) for one in states]), rtol=1e-10, atol=1e-12)
    assert not state.weight[~real].any()
    towards = torch.randn_like(output)
    for mine, true in zip(*(torch.autograd.grad(y, (q, k, v), towards) for y in (output, expected)), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-12)
    goes_on, _ = causal_favor(q, k, v, projection, state, cu_seqlens=cuts, chunk=4)
    again = []
    for a, b in itertools.pairwise(bounds):
        if a < b:
            doubled = (torch.cat((x[:, :, a:b], x[:, :, a:b]), dim=2) for x in (q, k, v))
            again.append(causal_favor(*doubled, projection, chunk=4)[0][:, :, b - a :])
    torch.testing.assert_close(goes_on, torch.cat(again, dim=2), rtol=1e-9, atol=1e-11)


def test_the_future_changes_nothing() -> None:
    *given, projection = inputs(1, 2, 40)
    q, k, v = (x.float() for x in given)
    before, _ = causal_favor(q, k, v, projection.float(), chunk=8, block=16)
    for i in (0, 5, 15, 16, 30):
        changed = [x.clone() for x in (q, k, v)]  # of the same strides: another matmul routine rounds otherwise
        for x in changed:
            x[:, :, i + 1 :] = 8 * torch.randn_like(x[:, :, i + 1 :])
        after, _ = causal_favor(*changed, projection.float(), chunk=8, block=16)
        assert torch.equal(before[:, :, : i + 1], after[:, :, : i + 1])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_float32_is_accurate(causal: bool, spread: float) -> None:
    q, k, v, _ = inputs(1, 2, 300, spread=spread)
    projection = orthogonal_gaussian(24, WIDTH, dtype=torch.float64)
    output = attend(q.float(), k.float(), v.float(), projection.float(), causal=causal, block=64)
    expected = definition(q, k, v, projection, causal=causal)
    assert float((output - expected).square().mean().sqrt() / expected.square().mean().sqrt()) < 1e-5


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite_inside_and_outside_autocast(causal: bool, dtype: torch.dtype) -> None:
    *given, projection = inputs(2, 2, 33, spread=20.0)
    q, k, v = (x.to(dtype).requires_grad_() for x in given)
    with torch.autocast("cpu", dtype=dtype):
        output = attend(q, k, v, projection.float(), causal=causal)
        output.float().square().mean().backward()
    assert output.dtype is dtype
    assert all(torch.isfinite(x).all() for x in (output, q.grad, k.grad, v.grad))


@pytest.mark.parametrize("with_mask", [True, False])
def test_features_may_be_given(with_mask: bool) -> None:
    q, k, v, projection = inputs(2, 2, 21)
    features = [softmax_exponents(x, projection)[0].exp().requires_grad_() for x in (q, k)]
    mask = torch.rand(2, 21) > 0.3 if with_mask else None
    output, _ = causal_favor(*features, v, None, mask=mask, chunk=4, block=8)
    expected = linear_attention_reference(features[0].log(), features[1].log(), v, causal=True, mask=mask)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)
    for mine, true in zip(*(torch.autograd.grad(y.sum(), features) for y in (output, expected)), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_may_hold_anything(causal: bool) -> None:
    q, k, v, projection = inputs(1, 2, 20)
    mask = torch.arange(20)[None] % 3 > 0
    clean = attend(q, k, v, projection, causal=causal, mask=mask)
    k, v = (torch.where(mask[:, None, :, None], x, torch.nan) for x in (k, v))
    torch.testing.assert_close(attend(q, k, v, projection, causal=causal, mask=mask), clean, rtol=0, atol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_torch_func_takes_the_formula(causal: bool) -> None:
    q, k, v, projection = inputs(1, 2, 9)

    def total(q: Tensor) -> Tensor:
        return attend(q, k, v, projection, causal=causal).square().sum()

    leaf = q.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(leaf), (leaf,))
    torch.testing.assert_close(torch.func.grad(total)(q), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_second_derivatives(causal: bool, padded: bool) -> None:
    projection = torch.randn(3, 2, dtype=torch.float64)
    given = [torch.randn(2, 1, 5, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    mask = torch.tensor([[True] * 5, [False, True, True, True, False]]) if padded else None
    assert torch.autograd.gradgradcheck(lambda *x: attend(*x, projection, causal=causal, mask=mask), given, fast_mode=True)


def test_second_derivatives_of_documents_and_of_what_came_before() -> None:
    projection, cu_seqlens = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0, 3, 3, 7])
    with torch.no_grad():
        past = [torch.randn(3, 1, 4, 2, dtype=torch.float64) for _ in range(3)]
        _, before = causal_favor(*past, projection)
    given = [torch.randn(1, 1, 7, 2, dtype=torch.float64) for _ in range(3)]
    leaves = [x.requires_grad_() for x in (*given, before.total, before.weight)]

    def run(*x: Tensor) -> tuple[Tensor, ...]:
        state = replace(before, total=x[3], weight=x[4])
        output, after = causal_favor(*x[:3], projection, state, cu_seqlens=cu_seqlens, chunk=2, block=2)
        return output, after.total / after.weight[..., None]  # each by itself is relative to the maximum, a constant to autograd

    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)
    direction = [torch.randn_like(x) for x in leaves]
    _, found = torch.func.jvp(run, tuple(x.detach() for x in leaves), tuple(direction))
    with torch.no_grad():
        low, high = (run(*(x + sign * 1e-6 * d for x, d in zip(leaves, direction, strict=True))) for sign in (-1, 1))
    for tangent, below, above in zip(found, low, high, strict=True):
        torch.testing.assert_close(tangent, (above - below) / 2e-6, rtol=1e-6, atol=1e-7)


def test_wrong_shapes_are_named() -> None:
    q, k, v, projection = inputs(1, 1, 8)
    with pytest.raises(ValueError, match="queries, keys and values must agree"):
        causal_favor(q, k[:, :, :5], v, projection)
    with pytest.raises(ValueError, match="chunk"):
        causal_favor(q, k, v, projection, chunk=0)
    with pytest.raises(ValueError, match="projection must not require a gradient"):
        causal_favor(q, k, v, projection.requires_grad_())


def saved_numbers(run: Callable[[], Tensor]) -> int:
    """Numbers that autograd keeps for backward."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()  # whole, also where a part of it is kept
        kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with use_backend("torch"), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(kept.values())


def saved_numbers_and_gradients(q: Tensor, k: Tensor, v: Tensor, projection: Tensor, towards: Tensor) -> tuple[int, tuple[Tensor, ...]]:
    kept = saved_numbers(lambda: attend(q, k, v, projection, causal=True, block=64))
    with use_backend("torch"):
        return kept, torch.autograd.grad(attend(q, k, v, projection, causal=True, block=64), (q, k, v), towards)


@pytest.mark.parametrize("causal", [True, False])
def test_no_features_of_long_sequences_are_kept_for_backward(causal: bool) -> None:
    torch.manual_seed(0)
    length, width, features = 1024, 16, 128
    q, k, v = (torch.randn(1, 1, length, width, requires_grad=True) for _ in range(3))
    projection = torch.randn(features, width)
    with keeping(every=False):
        kept = saved_numbers(lambda: attend(q, k, v, projection, causal=causal, block=256))
    assert kept < length * (4 * width + 3) + (length // 256 + 4) * features * (width + 2)


def test_features_of_short_sequences_are_kept_and_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    length, width, features = 200, 16, 32  # the last chunk is not full
    q, k, v = (torch.randn(1, 2, length, width, requires_grad=True) for _ in range(3))
    projection, towards = torch.randn(features, width), torch.randn(1, 2, length, width)
    found = []
    for most in (2 * 2 * length * features, 2 * 2 * length * features - 1):
        monkeypatch.setattr(by_hand, "MOST_FEATURES", most)
        found.append(saved_numbers_and_gradients(q, k, v, projection, towards))
    (more, mine), (less, made_again) = found
    assert more - less == 2 * 2 * features * (length + (-length) % 8)
    for kept_gradient, other in zip(mine, made_again, strict=True):
        torch.testing.assert_close(kept_gradient, other)


def test_summaries_of_chunks_and_scores_are_kept_where_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    length, width, features, chunk = 256, 16, 32, 8
    q, k, v = (torch.randn(1, 1, length, width, requires_grad=True) for _ in range(3))
    projection, towards = torch.randn(features, width), torch.randn(1, 1, length, width)
    summaries, found = length // chunk * features * (width + 1), []
    for most in (summaries, summaries - 1):
        monkeypatch.setattr(by_hand, "MOST_KEPT", most)
        found.append(saved_numbers_and_gradients(q, k, v, projection, towards))
    (more, mine), (less, made_again) = found
    assert more - less == summaries + length * chunk - length // 64 * features * (width + 1)
    for kept_gradient, other in zip(mine, made_again, strict=True):
        torch.testing.assert_close(kept_gradient, other)


@pytest.mark.parametrize("back", [False, True])
def test_sums_of_chunks_one_after_another_and_as_a_product(back: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    first, added = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    nothing, later = torch.full((2, 1), -1e30, dtype=torch.float64), 3 * torch.randn(2, 5, dtype=torch.float64)
    marks = torch.cat((nothing, later), dim=1).cummax(dim=1).values
    one_by_one = chunks.carried(first, added, marks, back=back)
    monkeypatch.setattr(chunks, "FEW_CHUNKS", 0)
    for found, wanted in zip(one_by_one, chunks.carried(first, added, marks, back=back), strict=True):
        torch.testing.assert_close(found, wanted)


def test_what_the_future_would_overflow_is_written_over() -> None:
    found = chunks.lower(torch.tensor([[0.0, 1e4], [-1e4, 0.0]]))
    assert torch.equal(found, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
