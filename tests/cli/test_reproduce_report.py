"""A result on the terminal: nothing is dropped, whatever the width."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquadratic.cli.reproduce_report import fitting, told
from subquadratic.evaluation.report import table
from subquadratic.reproduction.catalogue import CLAIMS
from subquadratic.reproduction.claim import Condition, Measurement
from subquadratic.reproduction.results import Result

CONDITIONS = (
    Condition(number="error", text="relative error of our layer, at worst", most=1e-9),
    Condition(number="raw keys", text="relative difference that raw keys make, at least", least=1e-3),
)
CLAIM = dataclasses.replace(CLAIMS["fastformer.equations"], conditions=CONDITIONS)
WORDS = st.text("abcdefgh", min_size=1, max_size=12)
TEXTS = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)


def result(*, shared: float = 0.0, **measured: object) -> Result:
    outcome = CLAIM.judge(Measurement(**measured))  # type: ignore[arg-type]
    return Result(
        id=CLAIM.id, seed=0, seconds=81.0, cpu_seconds=1.0, verdict=outcome.verdict, met=outcome.met, machine={},
        measurement=outcome.measurement, shared_seconds=shared,
    )  # fmt: skip


@given(st.integers(1, 7).flatmap(lambda n: st.lists(st.lists(TEXTS, min_size=n, max_size=n), min_size=2, max_size=5)), st.integers(36, 98))
def test_a_table_fits_and_has_all_its_words(cells: list[list[str]], width: int) -> None:
    lines = fitting(cells[0], cells[1:], width)
    assert max(map(len, lines)) <= width
    there = sorted(" ".join(lines).replace("-", " ").replace(":", " ").split())
    words = [" ".join(row).split() for row in cells]
    assert set(there) == {word for row in words for word in row} and len(there) >= sum(map(len, words))


def test_a_table_that_fits_stays_as_it_is_and_a_wider_one_gets_tall_heads_before_it_is_stacked() -> None:
    head, row = ["n", "faster than eager", "less memory than eager"], ["512", "1.5", "1.7"]
    assert fitting(head, [row], 100) == table([head, row])
    assert fitting(head, [row], 36) == [
        "                         less memory",
        "n    faster than eager    than eager",
        "------------------------------------",
        "512                1.5           1.7",
    ]
    assert fitting(head, [row], 18) == ["n: 512", "  faster than", "    eager: 1.5", "  less memory than", "    eager: 1.7"]


@pytest.mark.parametrize("columns", [60, 100])
def test_a_result_tells_everything_within_the_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    head = [f"column {i} of this table" for i in range(8)]
    found = result(
        numbers={"error": 1e-10, "raw keys": math.nan}, margins={"error": 1e-9}, columns=head, rows=[list("abcdefgh")],
        finding="It came out so.", shared=80.0,
    )  # fmt: skip
    lines = list(told(CLAIM, found))
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= columns
    assert f"{CLAIM.id}: not measurable here (81 s, 80 s of it shared with claims before)" in text and "It came out so." in text
    assert "undecided: relative error of our layer, at worst: 1e-10 ± 1e-09 (asked: at most 1e-09)" in text
    assert "not measurable here: relative difference that raw keys make, at least: -" in text
    assert all(letter in text.split() for letter in "abcdefgh")


def test_a_model_that_diverged_is_told() -> None:
    text = " ".join(told(CLAIM, result(diverged="the Fastformer: the loss is nan at step 7")))
    assert "does not hold" in text and "the loss is nan at step 7" in text and "asked" not in text
