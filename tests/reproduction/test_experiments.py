"""Experiments measure the package's own code: what is true of it holds, and altering the code that a claim is about is found out."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from subquadratic.attention.additive.layer import AdditiveAttention
from subquadratic.attention.favor import features
from subquadratic.benchmark.work import NotAvailable
from subquadratic.reproduction.catalogue import CLAIMS
from subquadratic.reproduction.claim import FAILS, HOLDS, UNMEASURABLE, Claim, Setting
from subquadratic.reproduction.experiments import additive, favor_error, kernels, low_rank, published, recall

QUICK = Setting(seed=1, effort=0.25)
ROUGH = Setting(seed=1, effort=0.0625)  # what is true need not hold to the tolerance
LEAST = Setting(seed=0, effort=1e-3)


def verdict(name: str, setting: Setting = QUICK) -> str:
    return CLAIMS[name].measure(setting).verdict


def test_lemma_2_holds_and_other_features_do_not_have_its_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict("performer.lemma2") == HOLDS
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "trigonometric", lambda x: ((2 * math.pi * x).sin(), (2 * math.pi * x).cos()))
        outcome = CLAIMS["performer.lemma2"].measure(ROUGH)
        assert outcome.verdict == FAILS and outcome.measurement.numbers["trigonometric"] > 2
    own = features.softmax_exponents

    def without_norm(x: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
        return own(x, projection)[1], own(x, projection)[1]

    monkeypatch.setattr(features, "softmax_exponents", without_norm)
    assert CLAIMS["performer.lemma2"].measure(ROUGH).met == [False, False, False]


def test_theorem_2_holds_of_orthogonal_features_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict("performer.theorem2") == HOLDS

    def independent(count: int, width: int, *, generator: Any = None, dtype: Any = None, **_: Any) -> Tensor:
        return torch.randn(count, width, generator=generator, dtype=dtype)

    monkeypatch.setattr(features, "orthogonal_gaussian", independent)
    assert verdict("performer.theorem2") == FAILS


def test_positive_features_win_where_queries_are_large_and_lose_where_they_are_small() -> None:
    assert verdict("performer.positive_large") == HOLDS
    assert verdict("performer.positive_small") == FAILS


def test_an_estimator_that_is_no_better_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    own = favor_error.favor_attention
    monkeypatch.setattr(
        favor_error, "favor_attention", lambda q, k, v, w, estimator="positive": own(q, k, v, w) + 0.01 * (estimator == "optimal")
    )
    assert verdict("performer.optimal_features") == FAILS


def test_raw_keys_are_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict("fastformer.equations") == HOLDS
    monkeypatch.setattr(AdditiveAttention, "_mix", additive.RawKeyAttention._mix)
    assert verdict("fastformer.equations") == FAILS


def test_the_slip_is_that_of_the_equations_with_raw_keys() -> None:
    layer = AdditiveAttention(32, heads=2).double()
    x = torch.randn(2, 20, 32, dtype=torch.float64)
    expected = additive.by_equations(layer, x, raw_keys=True)
    torch.testing.assert_close(additive.sum_raw_keys_(layer)(x), expected)


def test_a_projection_that_leaves_positions_out_does_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict("linformer.projection") == HOLDS

    def first_positions(weights: Tensor, x: Tensor) -> Tensor:
        return weights[: weights.shape[1]].mT @ x[:, : weights.shape[1]]

    monkeypatch.setattr(low_rank, "slot_sums", first_positions)
    assert verdict("linformer.projection") == FAILS


def test_a_state_that_forgets_holds_no_more_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    own = recall.gated_linear_attention
    monkeypatch.setattr(recall, "gated_linear_attention", lambda q, k, v, decay: own(q, k, v, decay - 0.5))
    assert verdict("recall.state_size") == FAILS


def test_what_is_missing_here_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise NotAvailable(f"{name} is not installed")

    monkeypatch.setattr(published, "installed", missing)
    outcome = CLAIMS["published.linformer"].measure(LEAST)
    assert outcome.verdict == UNMEASURABLE and outcome.measurement.unavailable == "linformer is not installed"


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.id)
def test_every_experiment_gives_the_numbers_of_its_conditions(claim: Claim) -> None:
    outcome = claim.measure(LEAST)
    found = outcome.measurement
    if outcome.verdict == UNMEASURABLE:
        assert found.unavailable
        return
    assert len(outcome.met) == len(claim.conditions) and found.setup and found.rows
    assert all(len(row) == len(found.columns) for row in found.rows)
    assert found.plot is None or all(points for points in found.plot.series.values())
