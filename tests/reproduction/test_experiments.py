"""Experiments measure the package's own code: what is true of it holds, and altering the code that a claim is about is found out."""

import pytest

from subquadratic.benchmark.work import NotAvailable
from subquadratic.reproduction.catalogue import CLAIMS
from subquadratic.reproduction.claim import FAILS, UNMEASURABLE, Claim, Setting
from subquadratic.reproduction.experiments import published, recall

QUICK = Setting(seed=1, effort=0.25)
LEAST = Setting(seed=0, effort=1e-3)


def verdict(name: str, setting: Setting = QUICK) -> str:
    return CLAIMS[name].measure(setting).verdict


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


SLOW = ("linformer.linear", "linformer.spectrum")  # seconds each at their least


@pytest.mark.parametrize(
    "claim", [pytest.param(claim, id=claim.id, marks=pytest.mark.slow if claim.id in SLOW else []) for claim in CLAIMS.values()]
)
def test_every_experiment_gives_the_numbers_of_its_conditions(claim: Claim) -> None:
    outcome = claim.measure(LEAST)
    found = outcome.measurement
    if outcome.verdict == UNMEASURABLE:
        assert found.unavailable
        return
    assert len(outcome.met) == len(claim.conditions) and found.setup and found.rows
    assert all(len(row) == len(found.columns) for row in found.rows)
    assert found.plot is None or all(points for points in found.plot.series.values())
