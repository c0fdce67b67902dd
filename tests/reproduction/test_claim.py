"""A verdict follows from numbers alone, and every claim can fail."""

import importlib
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.reproduction.catalogue import CLAIMS, select, within
from subquadratic.reproduction.claim import FAILS, HOLDS, UNMEASURABLE, Claim, Condition, Measurement, Paper, figure

NUMBERS = st.floats(allow_nan=False, min_value=-1e6, max_value=1e6)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_condition_is_a_closed_interval(value: float, one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    condition = Condition(number="x", text="x", least=low, most=high)
    assert condition.met({"x": value}) is (low <= value <= high)
    assert condition.met({"x": low}) and condition.met({"x": high}) and not condition.met({"x": math.nan})


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.id)
def test_false_numbers_make_a_claim_fail(claim: Claim) -> None:
    """One number at a time beyond its bound; all others within theirs."""
    good = {}
    for condition in claim.conditions:
        lows = [c.least for c in claim.conditions if c.number == condition.number and math.isfinite(c.least)]
        highs = [c.most for c in claim.conditions if c.number == condition.number and math.isfinite(c.most)]
        good[condition.number] = max(lows) if lows else min(highs)
    assert claim.judge(Measurement(numbers=good)).verdict == HOLDS
    for condition in claim.conditions:
        bad = condition.least - 1 if math.isfinite(condition.least) else condition.most + 1
        for value in (bad, math.nan):
            outcome = claim.judge(Measurement(numbers={**good, condition.number: value}))
            assert outcome.verdict == FAILS and not outcome.met[claim.conditions.index(condition)]
    with pytest.raises(KeyError):
        claim.judge(Measurement(numbers={}))
    assert claim.judge(Measurement(unavailable="no GPU")).verdict == UNMEASURABLE


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.id)
def test_a_claim_says_what_it_is(claim: Claim) -> None:
    assert claim.text.endswith(".") and claim.seconds > 0
    assert not claim.printed or claim.source in ("read", "repository", "secondary")
    assert not claim.paper.arxiv or claim.paper.arxiv.replace(".", "").isdecimal()
    file, _, function = claim.experiment.partition(".")
    assert callable(getattr(importlib.import_module(f"subquadratic.reproduction.experiments.{file}"), function))


def test_a_claim_needs_conditions_and_a_source_for_what_is_printed() -> None:
    known = dict(id="x.y", paper=Paper(name="X", arxiv="1234.5678"), place="", text="It is.", experiment="a.b", seconds=1.0)
    with pytest.raises(ValueError, match="cannot fail"):
        Claim(**known, conditions=())
    with pytest.raises(ValueError, match="needs a source"):
        Claim(**known, conditions=(Condition(number="x", text="x", least=0),), printed="12")


def test_patterns_choose_claims_and_a_wrong_one_is_told() -> None:
    assert [claim.id for claim in select(["performer.lemma2"])] == ["performer.lemma2"]
    assert {claim.id.partition(".")[0] for claim in select(["linformer", "fastformer.*"])} == {"linformer", "fastformer"}
    with pytest.raises(ValueError, match=r"did you mean 'performer\.lemma2'"):
        select(["performer.lema2"])


@given(st.floats(min_value=0, max_value=20_000))
def test_a_budget_takes_the_cheapest(budget: float) -> None:
    taken, left = within(CLAIMS.values(), budget)
    assert {claim.id for claim in (*taken, *left)} == set(CLAIMS) and len(taken) + len(left) == len(CLAIMS)
    assert sum(claim.seconds for claim in taken) <= budget
    assert not taken or not left or max(c.seconds for c in taken) <= min(c.seconds for c in left)
    assert not left or sum(c.seconds for c in taken) + left[0].seconds > budget


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, subquadratic.reproduction.catalogue, subquadratic.cli.reproduce; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.87234, "0.872"), (12_400.0, "12,400"), (1.2e-6, "1.2e-06"), (1.0, "1.00"), (0.0, "0"), (145.4, "145"), (math.nan, "nan")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text
