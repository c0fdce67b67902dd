"""What holds of FAVOR+ holds of the code that layers run, and a small alteration of it makes every claim about it fail."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.reproduction.altered import LEAST, changed, measured, met, needs_kernels
from torch import Tensor

from subquadratic.attention.favor import features, formula, mixing, op, sharp
from subquadratic.attention.favor.state import FeatureState
from subquadratic.reproduction.claim import Setting
from subquadratic.reproduction.experiments import favor_error, favor_formula, kernels

Patch = pytest.MonkeyPatch
FAVOR = ("positive_large", "positive_middle", "positive_small", "orthogonal", "unit_variance", "optimal_features")


def altered_favor(patch: Patch, change: Callable[[Tensor], Tensor]) -> None:
    for module in (mixing, sharp):
        for name in ("read_favor", "causal_favor"):
            patch.setattr(module, name, changed(getattr(module, name), change))


def mean_of_values(patch: Patch) -> None:
    def forward(self: mixing.FavorHeads, queries: Tensor, keys: Tensor, values: Tensor, *_: Any, causal: bool, **__: Any) -> Tensor:
        if not causal:
            return values.mean(dim=2, keepdim=True).expand_as(queries)
        return values.cumsum(dim=2) / torch.arange(1, values.shape[2] + 1, dtype=values.dtype)[:, None]

    patch.setattr(mixing.FavorHeads, "forward", forward)


def other_scale(patch: Patch) -> None:
    patch.setattr(op, "_scaled", lambda projection, x: projection.to(x.dtype) * x.shape[-1] ** -0.26)


FAVOR_ALTERED: dict[str, Callable[[Patch], None]] = {
    "zero": lambda patch: altered_favor(patch, torch.zeros_like),
    "1.3 times": lambda patch: altered_favor(patch, lambda y: 1.3 * y),
    "NaN": lambda patch: altered_favor(patch, lambda y: y * torch.nan),
    "mean of values": mean_of_values,
    "scale": other_scale,
}


@pytest.mark.parametrize("name", FAVOR)
def test_layers_compute_the_formula_of_random_features(name: str) -> None:
    found = measured(f"performer.{name}")
    assert found["float64"] and found["float32"]


@pytest.mark.parametrize("alteration", FAVOR_ALTERED)
@pytest.mark.parametrize("name", FAVOR)
def test_altered_attention_makes_every_claim_about_its_error_fail(monkeypatch: Patch, name: str, alteration: str) -> None:
    FAVOR_ALTERED[alteration](monkeypatch)
    found = met(f"performer.{name}")
    assert not found["float64"] and not found["float32"]


@needs_kernels
@pytest.mark.parametrize("kernel", ["NativeRead", "NativeSummarise", "NativeCausalFavor"])
def test_a_broken_kernel_of_favor_is_seen(monkeypatch: Patch, kernel: str) -> None:
    class Broken:
        apply = staticmethod(changed(getattr(op, kernel).apply, lambda y: y * (1 + 1e-3 * torch.arange(y.shape[-1]))))

    monkeypatch.setattr(op, kernel, Broken)
    for name in FAVOR:
        found = met(f"performer.{name}")
        assert found["float64"] and not found["float32"]


def test_one_form_alone_is_seen(monkeypatch: Patch) -> None:
    ways = (
        (mixing, "read_favor"),
        (mixing, "causal_favor"),
        (sharp, "read_favor"),
        (formula, "normalise"),
        (favor_formula, "favor_attention"),
    )
    for module, name in ways:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, changed(getattr(module, name), lambda y: 1.001 * y))
            assert not met("performer.positive_large")["float32"]


def altered_features(patch: Patch, change: Callable[[Tensor], Tensor]) -> None:
    own = op.summarise_favor

    def summarise(*args: Any) -> FeatureState:
        total, weight, maximum = (summary := own(*args)).total, summary.weight, summary.maximum
        return FeatureState(change(total), change(weight), maximum)

    patch.setattr(kernels, "summarise_favor", summarise)


FEATURES_ALTERED: dict[str, Callable[[Patch], None]] = {
    "zero": lambda patch: altered_features(patch, torch.zeros_like),
    "1.3 times": lambda patch: altered_features(patch, lambda y: 1.3 * y),
    "scale": other_scale,
}


@pytest.fixture
def small(monkeypatch: Patch) -> Setting:
    """In which Theorem 2 holds in a second, as Lemma 2 does of one norm."""
    monkeypatch.setattr(kernels, "BLOCK", 1 << 17)
    monkeypatch.setattr(kernels, "NORMS", (0.1,))
    return Setting(seed=2, effort=0.1)


def of_kernels(setting: Setting) -> dict[str, bool]:
    """Conditions of Lemma 2 and Theorem 2 together."""
    return measured("performer.lemma2") | measured("performer.theorem2", setting)


def test_lemma_2_and_theorem_2_hold_of_the_features_of_layers(small: Setting) -> None:
    assert all(of_kernels(small).values())


@pytest.mark.parametrize("alteration", FEATURES_ALTERED)
def test_altered_features_make_lemma_2_and_theorem_2_fail(monkeypatch: Patch, small: Setting, alteration: str) -> None:
    FEATURES_ALTERED[alteration](monkeypatch)
    found = of_kernels(small)
    assert not found["positive, float64"] and not found["positive, float32"] and found["positive"]
    assert not found["ratio over theory at 0.33"]


@needs_kernels
def test_a_broken_kernel_of_features_is_seen(monkeypatch: Patch, small: Setting) -> None:
    class Broken:
        apply = staticmethod(changed(op.NativeSummarise.apply, lambda total: 1.1 * total))

    monkeypatch.setattr(op, "NativeSummarise", Broken)
    found = of_kernels(small)
    assert found["positive, float64"] and not found["positive, float32"] and not found["ratio over theory at 0.33"]


def test_theory_has_the_error_of_independent_features() -> None:
    """The closed form, beside what a hundred projections of the literal formula give."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 64, 16, generator=generator, dtype=torch.float64) / 4
    v = torch.randn(64, 400, generator=generator, dtype=torch.float64)
    exact = (q @ k.T / 4).softmax(dim=-1) @ v
    errors = []
    for _ in range(100):
        projection = torch.randn(512, 16, generator=generator, dtype=torch.float64)
        found = favor_formula.weights(q, k, projection) @ v
        errors.append(float((found - exact).square().mean() / exact.square().mean()))
    assert sum(errors) / 100 == pytest.approx(favor_formula.expected_error(q, k, 512), rel=0.2)


def test_orthogonal_features_have_the_error_of_the_closed_form(monkeypatch: Patch) -> None:
    """Of two in two dimensions it is an integral over angles and lengths."""
    norm, angles = 0.7, torch.linspace(0, 2 * torch.pi, 10_001, dtype=torch.float64)[:-1]
    lengths = torch.linspace(0, 12, 2_001, dtype=torch.float64)
    density = lengths * (-lengths.square() / 2).exp()  # chi, of two
    grow = torch.trapezoid(density * (lengths * angles.cos()[:, None] * norm**0.5).exp(), lengths)  # E[exp(w.z)] given w's direction
    pair = float((grow * grow.roll(2_500)).mean())
    monkeypatch.setattr(kernels, "WIDTH", 2)
    found = kernels.exact_orthogonal(1.0, norm)
    independent = kernels.closed_form("positive", 1.0, norm, 0.0) / 2
    assert found == pytest.approx(independent + (pair * float(torch.tensor(-norm).exp()) - 1) / 2, rel=1e-5)


def test_lemma_2_is_not_that_of_other_features(monkeypatch: Patch, small: Setting) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "trigonometric", lambda x: ((2 * math.pi * x).sin(), (2 * math.pi * x).cos()))
        found = met("performer.lemma2")
        assert not found["trigonometric"] and found["positive"]
    own = features.softmax_exponents
    monkeypatch.setattr(features, "softmax_exponents", lambda x, projection: (own(x, projection)[1],) * 2)
    found = met("performer.lemma2")
    assert not any(found[kind] for kind in kernels.KINDS)


def test_theorem_2_is_one_of_orthogonal_features_alone(monkeypatch: Patch, small: Setting) -> None:
    def independent(count: int, width: int, *, generator: Any = None, dtype: Any = None, **_: Any) -> Tensor:
        return torch.randn(count, width, generator=generator, dtype=dtype)

    monkeypatch.setattr(features, "orthogonal_gaussian", independent)
    found = met("performer.theorem2", small)
    assert not found["ratio at 0.33"] and not found["ratio over bound at 0.33"]


def test_positive_features_win_where_queries_are_large_and_lose_where_they_are_small() -> None:
    setting = Setting(seed=1, effort=0.25)
    assert all(measured("performer.positive_large", setting).values())
    assert not met("performer.positive_small", setting)["trigonometric over positive"]


def test_an_estimator_that_is_no_better_is_found_out(monkeypatch: Patch) -> None:
    own = favor_error.attend

    def attend(*args: Tensor, estimator: str = "positive") -> Tensor:
        return own(*args) + 0.01 * (estimator == "optimal")

    monkeypatch.setattr(favor_error, "attend", attend)
    assert not met("performer.optimal_features", Setting(seed=1, effort=0.25))["optimal at 0.25"]


def test_every_error_is_one_of_layers_code(monkeypatch: Patch) -> None:
    """Figures take attention from the layers' float32, not from a copy of it."""
    calls: list[torch.dtype] = []
    own = mixing.FavorHeads.forward

    def forward(self: mixing.FavorHeads, queries: Tensor, *args: Any, **options: Any) -> Tensor:
        calls.append(queries.dtype)
        return own(self, queries, *args, **options)

    monkeypatch.setattr(mixing.FavorHeads, "forward", forward)
    favor_error.by_size(LEAST)
    assert calls.count(torch.float32) > calls.count(torch.float64) > 0
