"""A verdict follows from numbers alone, and every claim can fail."""

import importlib
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.reproduction.catalogue import CLAIMS, cost, select, within
from subquadratic.reproduction.claim import (
    FAILS,
    HOLDS,
    UNDECIDED,
    UNMEASURABLE,
    Claim,
    Condition,
    Diverged,
    Measurement,
    Paper,
    Setting,
    figure,
)

NUMBERS = st.floats(allow_nan=False, min_value=-1e6, max_value=1e6)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_condition_is_a_closed_interval(value: float, one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    condition = Condition(number="x", text="x", least=low, most=high)
    assert condition.met(value) is (low <= value <= high)
    assert condition.met(low) and condition.met(high) and condition.met(math.nan) is None and condition.met(None) is None


@given(NUMBERS, st.floats(min_value=0, max_value=1e6), NUMBERS, NUMBERS)
def test_an_interval_across_a_bound_decides_nothing(value: float, margin: float, one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    met = Condition(number="x", text="x", least=low, most=high).met(value, margin)
    inside = [low <= end <= high for end in (value - margin, value + margin)]
    apart = value + margin < low or value - margin > high
    assert met is (True if all(inside) else False if apart else None)


def test_a_margin_that_is_not_known_decides_nothing_and_a_negative_one_is_refused() -> None:
    condition = Condition(number="x", text="x", least=0.0)
    assert condition.met(1.0, math.nan) is None and condition.met(1.0, math.inf) is None
    with pytest.raises(ValueError, match="margin of a number is at least 0, got -1"):
        condition.met(1.0, -1.0)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((1.0, 1.0), HOLDS),
        ((1.0, 0.05), UNDECIDED),
        ((1.0, -0.05), UNDECIDED),
        ((1.0, math.nan), UNMEASURABLE),
        ((0.05, math.nan), UNMEASURABLE),
        ((0.05, -1.0), FAILS),
        ((math.nan, -1.0), FAILS),
        ((math.nan, None), UNMEASURABLE),
        ((1.0, math.inf), HOLDS),
        ((1.0, -math.inf), FAILS),
    ],
)
def test_what_is_not_met_counts_more_than_what_is_not_known(values: tuple[float, float], verdict: str) -> None:
    conditions = tuple(Condition(number=name, text=name, least=0.0) for name in "ab")
    claim = Claim(id="x.y", paper=Paper(name="X", arxiv=""), place="", text="It is.", experiment="a.b", seconds=1.0, conditions=conditions)
    measurement = Measurement(numbers=dict(zip("ab", values, strict=True)), margins={"a": 0.1, "b": 0.1})
    outcome = claim.judge(measurement)
    assert outcome.verdict == verdict
    words = {True: "yes", False: "no", None: UNDECIDED}
    for condition, met, value in zip(conditions, outcome.met, values, strict=True):
        missing = value is None or math.isnan(value)
        assert condition.answer(measurement) == (UNMEASURABLE if missing else words[met])


def test_a_model_that_diverges_makes_its_claim_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from subquadratic.reproduction.experiments import additive

    def broken(setting: Setting) -> Measurement:
        raise Diverged("the Performer: the loss is nan at step 3")

    monkeypatch.setattr(additive, "equations", broken)
    outcome = CLAIMS["fastformer.equations"].measure(Setting())
    assert (outcome.verdict, outcome.met) == (FAILS, [])
    assert outcome.measurement.diverged == "the Performer: the loss is nan at step 3"


def test_who_listens_is_no_part_of_a_setting() -> None:
    assert Setting(say=print) == Setting() and hash(Setting(say=print)) == hash(Setting()) and Setting(seed=1) != Setting()


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
        outcome = claim.judge(Measurement(numbers={**good, condition.number: bad}))
        assert outcome.verdict == FAILS and outcome.met[claim.conditions.index(condition)] is False
        assert claim.judge(Measurement(numbers={**good, condition.number: math.nan})).verdict == UNMEASURABLE
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
    assert cost(taken) <= budget
    assert not taken or not left or max(c.seconds for c in taken) <= min(c.seconds for c in left)
    assert all(cost([*taken, claim]) > budget for claim in left)


def test_what_claims_share_costs_once() -> None:
    def made(name: str, experiment: str, seconds: float, group: str = "") -> Claim:
        conditions = (Condition(number="x", text="x", least=0.0),)
        paper = Paper(name="X", arxiv="")
        return Claim(
            id=name, paper=paper, place="", text="It is.", experiment=experiment, seconds=seconds, conditions=conditions, group=group
        )

    one, same, grouped, also = made("a", "x.f", 80), made("b", "x.f", 80), made("c", "x.g", 50, "runs"), made("d", "x.h", 70, "runs")
    assert cost([one, same]) == 80 and cost([grouped, also]) == 70 and cost([one, same, grouped, also]) == 150 and cost([]) == 0
    assert [claim.id for claim in within([one, same, grouped], 80)[0]] == ["c"]
    assert [claim.id for claim in within([one, same], 80)[0]] == ["a", "b"]
    assert within([one, grouped], None) == ([grouped, one], [])


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, subquadratic.reproduction.catalogue, subquadratic.cli.reproduce; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.87234, "0.872"), (12_400.0, "12,400"), (1.2e-6, "1.2e-06"), (1.0, "1.00"), (0.0, "0"), (145.4, "145"), (math.nan, "nan")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("value", "margin", "text"),
    [
        (1.00434, 0.0, "1.004"),  # a twentieth of what lies between the bounds is 0.002
        (0.97996, 0.0, "0.97996"),
        (0.98, 0.0, "0.980"),
        (1.0, 0.003, "1.00 ± 0.0030"),
        (1.005, 0.0151, "1.005 ± 0.0151"),
        (math.inf, 0.0, "inf"),
        (1.0, math.nan, "1.00 ± nan"),
        (math.nan, 0.0, "-"),
    ],
)
def test_rounding_hides_nothing_that_decides(value: float, margin: float, text: str) -> None:
    condition = Condition(number="x", text="x", least=0.98, most=1.02)
    assert condition.shown(Measurement(numbers={"x": value}, margins={"x": margin})) == text


@given(NUMBERS, NUMBERS)
def test_what_is_shown_lies_on_the_same_side(value: float, bound: float) -> None:
    condition = Condition(number="x", text="x", least=bound)
    shown = float(condition.shown(Measurement(numbers={"x": value})).replace(",", ""))
    assert condition.met(shown) is condition.met(value) or abs(shown - bound) < 1e-11
