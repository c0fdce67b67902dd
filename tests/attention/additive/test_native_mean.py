"""Softmax pooling of turned positions by the C kernels, and Fastformer's attention made of it, against their definitions in float64."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from subquadratic.attention import AdditiveAttention
from subquadratic.attention.additive import native_mean as kernel
from subquadratic.attention.additive.native_mean import NativeMean
from subquadratic.attention.additive.op import softmax_mean
from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library
from subquadratic.layers.rotary.op import complex_product

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


def defined(
    x: Tensor, turns: Tensor | None, weights: Tensor, mask: Tensor | None, late: bool, scale: float, write: bool
) -> tuple[Tensor, Tensor, Tensor]:
    once = x if turns is None else complex_product(x, turns)
    seen = once if turns is None or not late else complex_product(once, turns)
    asked = (once if late else x).transpose(1, 2).flatten(2)
    logits = (asked @ weights.mT).transpose(1, 2) * scale
    return softmax_mean(logits, seen, mask), seen if write else seen[..., :0], x


def error(found: Tensor, true: Tensor) -> float:
    """RMS of the difference over that of the truth."""
    return float(((found.double() - true).square().mean() / true.square().mean().clamp_min(1e-12)).sqrt().detach())


def compare(
    length: int,
    heads: int,
    width: int,
    *,
    turned: str,
    masked: bool,
    late: bool,
    by_row: bool,
    write: bool,
    more: bool,
    spread: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(2, length, heads, width).transpose(1, 2)
    weights = torch.randn(*([2] if by_row else []), heads, heads * width) * spread
    turns = {"not": None, "alike": torch.randn(length, width), "by row": torch.randn(2, 1, length, width)}[turned]
    turns = turns if width % 2 == 0 else None
    mask = torch.rand(2, length) > 0.4 if masked else None
    towards = torch.randn(2, heads, 1, width), torch.randn(2, heads, length, width)
    found, true = [], []
    for results, dtype, function in ((found, torch.float32, NativeMean.apply), (true, torch.float64, defined)):
        leaves = [y.detach().to(dtype).requires_grad_() for y in (x, weights)]
        by = None if turns is None else turns.to(dtype)
        mean, once, again = function(leaves[0], by, leaves[1], mask, late, 0.3, write)
        loss = (mean * towards[0].to(dtype)).sum() + ((once * towards[1].to(dtype)).sum() if write else 0)
        loss = loss + (again * towards[1].to(dtype).flip(2)).sum() if more else loss
        gradients = torch.autograd.grad(loss, leaves)  # in one: with one position the softmax has none
        results += [mean, *([once] if write else []), torch.cat([gradient.flatten() for gradient in gradients])]
    for mine, wanted in zip(found, true, strict=True):
        assert mine.shape == wanted.shape and error(mine, wanted) < 1e-5


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.one_of(st.integers(1, 150), st.sampled_from([63, 64, 65, 128])), heads=st.sampled_from([1, 2, 3]),
    width=st.sampled_from([1, 4, 5, 16, 24, 64]), turned=st.sampled_from(["not", "alike", "by row"]), masked=st.booleans(),
    late=st.booleans(), by_row=st.booleans(), write=st.booleans(), more=st.booleans(), spread=st.sampled_from([0.1, 1.0, 5.0]),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_values_and_gradients_equal_the_definition(lanes: None, length: int, heads: int, width: int, **options: Any) -> None:
    compare(length, heads, width, **options)


@pytest.mark.parametrize("threads", [1, 2, 3, 5], indirect=True)
@pytest.mark.parametrize("late", [True, False])
def test_any_number_of_threads(threads: int, late: bool) -> None:
    compare(1400, 2, 8, turned="alike", masked=True, late=late, by_row=True, write=not late, more=late, spread=1.0, seed=threads)


def test_rows_without_a_token_and_padding_that_holds_anything() -> None:
    x, weights, mask = torch.randn(2, 2, 90, 8), torch.randn(2, 16), torch.arange(90).expand(2, 90) % 3 > 0
    mask = mask & torch.tensor([[True], [False]])
    odd = x.masked_fill(~mask[:, None, :, None], torch.nan)
    found = []
    for held in (x, odd):
        leaves = [held.clone().requires_grad_(), weights.clone().requires_grad_()]
        mean, *_ = NativeMean.apply(leaves[0], torch.randn(90, 8).sign(), leaves[1], mask, False, 1.0, False)
        assert not mean[1].any()
        found.append(torch.autograd.grad(mean.square().sum(), leaves))
    for gradients in found:
        assert not gradients[0][1].any() and all(torch.isfinite(y).all() for y in gradients)


@pytest.mark.parametrize("late", [True, False])
def test_what_is_no_number_stays_none(late: bool) -> None:
    x = torch.randn(1, 2, 300, 8)
    x[0, 0, 7, 3] = torch.nan
    mean, *_ = NativeMean.apply(x, None, torch.randn(2, 16), None, late, 1.0, False)
    assert mean.isnan().all()  # a logit of each head reads all channels


def test_logits_of_any_size() -> None:
    x = torch.randn(1, 1, 300, 4) * 1e4
    mean, *_ = NativeMean.apply(x, None, torch.ones(1, 4), None, False, 1.0, False)
    assert torch.equal(mean[0, 0, 0], x[0, 0, x[0, 0].sum(dim=-1).argmax()])


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_the_layer_computes_the_same_by_its_kernels(rotary: bool, share: bool, masked: bool) -> None:
    layer = AdditiveAttention(24, heads=3, causal=False, rotary=rotary, share_query_value=share)
    x, mask = torch.randn(2, 80, 24), torch.rand(2, 80) > 0.3 if masked else None
    found = []
    for backend, dtype in (("native", torch.float32), ("torch", torch.float64)):
        own, given = layer.to(dtype), x.to(dtype).requires_grad_()
        with use_backend(backend):
            y = own(given, mask=mask)
        found.append([y, *torch.autograd.grad(y.square().sum(), [given, *own.parameters()])])
    assert all(error(mine, true) < 1e-5 for mine, true in zip(*found, strict=True))


def test_turns_that_do_not_fit_are_refused() -> None:
    layer = AdditiveAttention(16, heads=2, causal=False, rotary=True)
    with pytest.raises(RuntimeError):
        layer(torch.randn(1, 64, 16), turns=torch.randn(63, 8))


def test_operators_are_well_formed() -> None:
    x, mask = torch.randn(2, 40, 3, 8).transpose(1, 2), torch.rand(2, 40) > 0.3
    checks = ("test_schema", "test_faketensor")
    for turns, weights, late, write in (
        (None, torch.randn(3, 24), False, False),
        (torch.randn(40, 8), torch.randn(2, 3, 24), True, False),
        (torch.randn(2, 1, 40, 8), torch.randn(3, 24), False, True),
    ):
        arguments = (x, turns, weights, mask, late, 0.5)
        torch.library.opcheck(torch.ops.subquadratic.turned_mean.default, (*arguments, write), test_utils=checks)
        mean, turned, *kept = kernel.turned_mean(*arguments, write)
        given = (torch.randn_like(mean), torch.randn_like(turned) if write else None, torch.randn_like(x) if late else None)
        backward = (*given, *arguments, mean, *kept)
        torch.library.opcheck(torch.ops.subquadratic.turned_mean_backward.default, backward, test_utils=checks)
