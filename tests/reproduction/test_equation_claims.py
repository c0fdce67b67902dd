"""Linformer and Fastformer are their equations, in the code that layers run, and a small alteration of it makes their claims fail."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.reproduction.altered import LEAST, changed, measured, met, needs_kernels
from torch import Tensor

from subquadratic.attention.additive import layer as additive_layer
from subquadratic.attention.additive import native_running
from subquadratic.attention.additive.layer import AdditiveAttention
from subquadratic.attention.favor import mixing
from subquadratic.attention.low_rank import layer as low_rank_layer
from subquadratic.attention.low_rank import op as low_rank_op
from subquadratic.attention.low_rank.layer import LowRankAttention
from subquadratic.layers.rotary.op import complex_product
from subquadratic.reproduction import linformer
from subquadratic.reproduction.catalogue import CLAIMS
from subquadratic.reproduction.claim import UNMEASURABLE
from subquadratic.reproduction.experiments import additive, low_rank, spectrum, table3

Patch = pytest.MonkeyPatch


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


@pytest.mark.parametrize("alteration", [pytest.param(name, marks=pytest.mark.slow if name == "zero" else []) for name in LOW_RANK_ALTERED])
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
    assert measured("linformer.projection")["over theory"]
    monkeypatch.setattr(low_rank, "slot_sums", changed(low_rank.slot_sums, change))
    assert not met("linformer.projection")["over theory"]


def read_raw(self: AdditiveAttention, x: Tensor, weights: Tensor) -> Tensor:
    return additive_layer.merge_heads(x).matmul(weights.T).transpose(1, 2) * self.width**-0.4


def test_the_layers_are_their_equations() -> None:
    assert all((measured("linformer.equation") | measured("fastformer.equations")).values())


def raw_keys(patch: Patch) -> None:
    own = AdditiveAttention._mix

    def mix(self: AdditiveAttention, *args: Any) -> Any:
        plain = not self.causal and not self.rotary
        return (additive.RawKeyAttention._mix if plain else own)(self, *args)  # type: ignore[arg-type]

    patch.setattr(AdditiveAttention, "_mix", mix)


ADDITIVE_ALTERED: dict[str, Callable[[Patch], None]] = {
    "zero": of_layer(AdditiveAttention, "_run", torch.zeros_like),
    "1.3 times": of_layer(AdditiveAttention, "_run", lambda y: 1.3 * y),
    "scale": lambda patch: patch.setattr(AdditiveAttention, "_scores", read_raw),
    "raw keys": raw_keys,
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
    monkeypatch.setattr(mixing, "read_favor", changed(mixing.read_favor, torch.zeros_like))
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


def test_the_slip_is_that_of_the_equations_with_raw_keys() -> None:
    layer = AdditiveAttention(32, heads=2).double()
    x = torch.randn(2, 20, 32, dtype=torch.float64)
    expected = additive.by_equations(layer, x, raw_keys=True)
    torch.testing.assert_close(additive.sum_raw_keys_(layer)(x), expected)


def test_a_projection_that_leaves_positions_out_does_not_do(monkeypatch: Patch) -> None:
    def first_positions(weights: Tensor, x: Tensor) -> Tensor:
        return weights[: weights.shape[1]].mT @ x[:, : weights.shape[1]]

    monkeypatch.setattr(low_rank, "slot_sums", first_positions)
    assert not met("linformer.projection")["over theory"]
