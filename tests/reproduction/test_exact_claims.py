"""A small alteration of the code that layers run makes every claim about it fail, whether it is the formula, the kernel or the scale."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from subquadratic.attention.additive import layer as additive_layer
from subquadratic.attention.additive import native_running
from subquadratic.attention.additive.layer import AdditiveAttention
from subquadratic.attention.favor import mixing, op, sharp
from subquadratic.attention.favor.state import FeatureState
from subquadratic.attention.low_rank import layer as low_rank_layer
from subquadratic.attention.low_rank import op as low_rank_op
from subquadratic.attention.low_rank.layer import LowRankAttention
from subquadratic.kernels.native.library import why_not
from subquadratic.layers.rotary.op import complex_product
from subquadratic.reproduction import linformer
from subquadratic.reproduction.catalogue import CLAIMS
from subquadratic.reproduction.claim import FAILS, UNMEASURABLE, Outcome, Setting
from subquadratic.reproduction.experiments import additive, favor_error, favor_formula, kernels, low_rank, spectrum, table3

LEAST = Setting(seed=0, effort=1e-3)
Patch = pytest.MonkeyPatch
FAVOR = ("positive_large", "positive_middle", "positive_small", "orthogonal", "unit_variance", "optimal_features")
needs_kernels = pytest.mark.skipif(why_not() is not None, reason="no C kernels here")


def met(claim: str, setting: Setting = LEAST) -> dict[str, bool]:
    """Its conditions by their numbers, of which one is not met."""
    outcome = CLAIMS[claim].measure(setting)
    assert outcome.verdict == FAILS
    return by_number(claim, outcome)


def by_number(claim: str, outcome: Outcome) -> dict[str, bool]:
    return dict(zip((condition.number for condition in CLAIMS[claim].conditions), outcome.met, strict=True))


def changed(function: Callable[..., Any], change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """Another output, or first of several, in place of a function's."""

    def call(*args: Any, **options: Any) -> Any:
        found = function(*args, **options)
        return (change(found[0]), *found[1:]) if isinstance(found, tuple) else change(found)

    return call


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
    found = by_number(f"performer.{name}", CLAIMS[f"performer.{name}"].measure(LEAST))
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
    for name in ("read_favor", "causal_favor"):
        with monkeypatch.context() as patch:
            patch.setattr(mixing, name, changed(getattr(mixing, name), lambda y: 1.001 * y))
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
    """In which both claims hold, of one norm, in a second."""
    monkeypatch.setattr(kernels, "BLOCK", 1 << 17)
    monkeypatch.setattr(kernels, "NORMS", (0.1,))
    return Setting(seed=2, effort=0.03)


def of_kernels(setting: Setting) -> dict[str, bool]:
    """Conditions of Lemma 2 and Theorem 2 together."""
    found: dict[str, bool] = {}
    for claim in ("performer.lemma2", "performer.theorem2"):
        found |= by_number(claim, CLAIMS[claim].measure(setting))
    return found


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


def test_orthogonal_features_have_the_error_of_the_closed_form() -> None:
    """In one dimension rows are independent signs times lengths: of two in two dimensions it is an integral over angles."""
    norm, angles = 0.7, torch.linspace(0, 2 * torch.pi, 10_001, dtype=torch.float64)[:-1]
    lengths = torch.linspace(0, 12, 2_001, dtype=torch.float64)
    density = lengths * (-lengths.square() / 2).exp()  # chi, of two
    grow = torch.trapezoid(density * (lengths * angles.cos()[:, None] * norm**0.5).exp(), lengths)  # E[exp(w.z)] given w's direction
    pair = float((grow * grow.roll(2_500)).mean())
    wide = pytest.MonkeyPatch()
    with wide.context() as patch:
        patch.setattr(kernels, "WIDTH", 2)
        found = kernels.exact_orthogonal(1.0, norm)
        independent = kernels.closed_form("positive", 1.0, norm, 0.0) / 2
    assert found == pytest.approx(independent + (pair * float(torch.tensor(-norm).exp()) - 1) / 2, rel=1e-5)


def of_layer(layer: type, method: str, change: Callable[[Tensor], Tensor]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(layer, method, changed(getattr(layer, method), change))


def without_scale(patch: Patch) -> None:
    patch.setattr(low_rank_layer, "softmax_attention", scaled(low_rank_layer.softmax_attention))
    patch.setattr(low_rank_layer, "causal_slot_attention", scaled(low_rank_layer.causal_slot_attention))


def scaled(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda queries, *args, **options: function(1.1 * queries, *args, **options)


LOW_RANK_ALTERED: dict[str, Callable[[Patch], None]] = {
    "zero": of_layer(LowRankAttention, "_finish", torch.zeros_like),
    "1.3 times": of_layer(LowRankAttention, "_finish", lambda y: 1.3 * y),
    "scale": without_scale,
    "bidirectional alone": of_layer(LowRankAttention, "_read", lambda y: 1.001 * y),
    "causal alone": of_layer(LowRankAttention, "_attend_causal", lambda y: 1.001 * y),
}


@pytest.mark.parametrize("alteration", LOW_RANK_ALTERED)
def test_an_altered_linformer_fails(monkeypatch: Patch, alteration: str) -> None:
    LOW_RANK_ALTERED[alteration](monkeypatch)
    found = met("linformer.equation")
    assert not found["float64"] and not found["float32"]
    if alteration == "zero":
        monkeypatch.setattr(table3, "_found", {})
        for name in ("linear", "table3_time", "fused"):
            assert not met(f"linformer.{name}")["difference"]


@needs_kernels
def test_a_broken_kernel_of_slots_is_seen(monkeypatch: Patch) -> None:
    class Broken:
        apply = staticmethod(changed(low_rank_op.NativeSlots.apply, torch.zeros_like))

    monkeypatch.setattr(low_rank_op, "NativeSlots", Broken)
    assert met("linformer.equation") == {"float64": True, "float32": False}


@pytest.mark.parametrize("change", [torch.zeros_like, lambda y: 1.3 * y], ids=["zero", "1.3 times"])
def test_an_altered_projection_has_not_the_error_of_theory(monkeypatch: Patch, change: Callable[[Tensor], Tensor]) -> None:
    assert by_number("linformer.projection", CLAIMS["linformer.projection"].measure(LEAST))["over theory"]
    monkeypatch.setattr(low_rank, "slot_sums", changed(low_rank.slot_sums, change))
    assert not met("linformer.projection")["over theory"]


def read_raw(self: AdditiveAttention, x: Tensor, weights: Tensor) -> Tensor:
    return additive_layer.merge_heads(x).matmul(weights.T).transpose(1, 2) * self.width**-0.4


ADDITIVE_ALTERED: dict[str, Callable[[Patch], None]] = {
    "zero": of_layer(AdditiveAttention, "_run", torch.zeros_like),
    "1.3 times": of_layer(AdditiveAttention, "_run", lambda y: 1.3 * y),
    "scale": lambda patch: patch.setattr(AdditiveAttention, "_scores", read_raw),
    "causal alone": of_layer(AdditiveAttention, "_running", lambda y: 1.001 * y),
    "rotary alone": lambda patch: patch.setattr(additive_layer, "complex_product", changed(complex_product, lambda y: 1.001 * y)),
}


@pytest.mark.parametrize("alteration", ADDITIVE_ALTERED)
def test_an_altered_fastformer_fails(monkeypatch: Patch, alteration: str) -> None:
    ADDITIVE_ALTERED[alteration](monkeypatch)
    found = met("fastformer.equations")
    assert not found["float64"] and not found["float32"]


@needs_kernels
def test_a_broken_kernel_of_means_is_seen(monkeypatch: Patch) -> None:
    class Broken:
        apply = staticmethod(changed(additive_layer.native_mean.NativeMean.apply, lambda mean: 1.01 * mean))

    for module, name, broken in (
        (additive_layer.native_mean, "NativeMean", Broken),
        (native_running, "read_mean", changed(native_running.read_mean, lambda mean: 1.01 * mean)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            found = met("fastformer.equations")
            assert found["float64"] and not found["float32"]


def test_what_is_timed_is_compared_with_its_equations(monkeypatch: Patch) -> None:
    altered_favor(monkeypatch, torch.zeros_like)
    assert not met("performer.speed")["difference"]
    ADDITIVE_ALTERED["zero"](monkeypatch)
    assert not met("fastformer.linear")["difference"]


def test_table_3_is_the_printed_one_and_needs_a_system_that_tells_memory(monkeypatch: Patch) -> None:
    assert set(linformer.GRID) == set(table3.PRINTED)
    monkeypatch.setattr(table3, "_found", {})
    monkeypatch.setattr(table3, "peak_above", lambda call: None)
    outcome = CLAIMS["linformer.table3_memory"].measure(LEAST)
    assert outcome.verdict == UNMEASURABLE and "clear_refs" in outcome.measurement.unavailable


def test_flat_and_unordered_attention_have_no_spectrum_to_speak_of() -> None:
    """Uniform attention is of rank one in whatever order; random attention has the mass of full rank, shuffled or not."""
    generator = torch.Generator().manual_seed(0)
    random = spectrum._random(generator)[0, 0]
    flat = torch.full((64, 64), 1 / 64, dtype=torch.float64)
    assert spectrum._cumulative(flat)[0] == pytest.approx(1.0)
    quarter = spectrum._cumulative(random)[len(random) // 4 - 1]
    shuffled = spectrum._cumulative(spectrum.shuffled(random, generator))[len(random) // 4 - 1]
    assert 0.4 < quarter < 0.6 and abs(quarter - shuffled) < 0.05
    ordered = torch.arange(64.0).expand(8, -1)
    assert torch.equal(spectrum.shuffled(ordered, generator).sort(dim=-1).values, ordered)


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
    assert additive.computed() in ("the C kernels", "PyTorch")
