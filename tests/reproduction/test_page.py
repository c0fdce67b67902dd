"""The page says what the results in the repository say, failures as plainly as the rest."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from subquadratic.reproduction import page
from subquadratic.reproduction.catalogue import CLAIMS
from subquadratic.reproduction.claim import (
    FAILS,
    HOLDS,
    NOT_RUN,
    OLDER,
    UNDECIDED,
    UNMEASURABLE,
    Claim,
    Condition,
    Form,
    Measurement,
    Plot,
    counted,
)
from subquadratic.reproduction.results import Result, load_folder
from subquadratic.reproduction.standing import standing

ROOT = Path(__file__).parents[2]
KEPT = page.by_claim(load_folder(ROOT / page.RESULTS))


def made(name: str, *, form: Form | None = None, shared: float = 0.0, **measured: object) -> Result:
    machine = {"processor": "P", "threads": 2, "packages": {"torch": "2.13.0"}, "python": "3.11", "revision": "abc", "date": "2026-01-02"}
    measurement = Measurement(setup="made up", columns=["a", "b|c"], rows=[["1", "x|y"]], **measured)  # type: ignore[arg-type]
    return Result(
        id=name, seed=0, seconds=81.2, cpu_seconds=1.0, verdict="", met=[], machine=machine, measurement=measurement,
        form=form or CLAIMS[name].form, shared_seconds=shared,
    )  # fmt: skip


@pytest.fixture
def claim(monkeypatch: pytest.MonkeyPatch) -> Claim:
    """One of the catalogue's that asks what it is told to."""
    name = "fastformer.equations"
    conditions = (Condition(number="error", text="error, at worst", most=1e-9), Condition(number="raw keys", text="difference", least=1e-3))
    monkeypatch.setitem(CLAIMS, name, dataclasses.replace(CLAIMS[name], conditions=conditions, note="As it is noted now."))
    return CLAIMS[name]


GOOD = {"error": 1e-15, "raw keys": 0.1}


def test_the_page_is_what_the_results_give() -> None:
    assert (ROOT / page.PAGE).read_text(encoding="utf-8") == page.page(KEPT), "python -m subquadratic.reproduction.page makes it anew"


def test_every_plot_of_the_page_is_there() -> None:
    named = set(re.findall(r"\]\((images/reproduction/[\w.]+\.svg)\)", (ROOT / page.PAGE).read_text(encoding="utf-8")))
    assert named == {f"images/reproduction/{path.name}" for path in (ROOT / page.IMAGES).glob("*.svg")}


@pytest.mark.parametrize("result", KEPT.values(), ids=lambda result: result.id)
def test_kept_verdicts_follow_from_kept_numbers(result: Result) -> None:
    outcome = standing(CLAIMS[result.id], result).outcome
    assert (outcome.verdict, outcome.met) == (result.verdict, result.met)


def test_each_verdict_is_told_as_it_is(claim: Claim) -> None:
    found = page.page({claim.id: made(claim.id, numbers=GOOD)})
    assert f"Of {len(CLAIMS)} claims: 1 holds, {len(CLAIMS) - 1} not run yet." in found and f"**Verdict: {HOLDS}.** {claim.note}" in found
    found = page.page({claim.id: made(claim.id, numbers={**GOOD, "error": 0.1})})
    assert f"**Verdict: {FAILS}.**" in found and "| **no** |" in found and f"1 {FAILS}" in found and r"x\|y" in found
    found = page.page({claim.id: made(claim.id, unavailable="it needs a GPU")})
    assert f"**Verdict: {UNMEASURABLE}.**" in found and "it needs a GPU." in found
    assert f"**Verdict: {NOT_RUN}.**" in found and f"`subq reproduce {claim.id}`" not in found


def test_the_measured_cost_is_told(claim: Claim) -> None:
    found = page.page({claim.id: made(claim.id, numbers=GOOD)})
    assert "Seed 0, 81 seconds; P, 2 threads" in found
    found = page.page({claim.id: made(claim.id, numbers=GOOD, shared=80.0)})
    assert "Seed 0, 81 seconds, of which 80 seconds shared with claims before; P" in found


def test_what_is_undecided_missing_or_diverged_is_told(claim: Claim) -> None:
    found = page.page({claim.id: made(claim.id, numbers={**GOOD, "error": 1e-10}, margins={"error": 1e-9}, finding="It came out so.")})
    assert f"**Verdict: {UNDECIDED}.** It came out so." in found and "| 1e-10 ± 1e-09 | undecided |" in found
    found = page.page({claim.id: made(claim.id, numbers={**GOOD, "error": math.nan})})
    assert f"**Verdict: {UNMEASURABLE}.**" in found and f"| - | {UNMEASURABLE} |" in found
    found = page.page({claim.id: made(claim.id, diverged="the Fastformer: the loss is nan at step 7")})
    assert f"**Verdict: {FAILS}.**" in found and "the Fastformer: the loss is nan at step 7. Seed 0" in found


def test_an_older_form_of_a_claim_is_told_as_it_was(claim: Claim) -> None:
    old = Form(text="It read otherwise.", note="At most 6,000 steps.", conditions=(dataclasses.replace(claim.conditions[1], least=0.05),))
    result = made(claim.id, form=old, numbers=GOOD)
    stands = standing(claim, result)
    assert (stands.word, stands.outcome.verdict, stands.outcome.met) == (OLDER, HOLDS, [True])
    found = page.page({claim.id: result})
    section = found[found.index(f"### `{claim.id}`") :]
    section = section[: section.index("###", 5)]
    assert "**Verdict: holds, of an older form of the claim.** When it was measured, the claim read: It read otherwise." in section
    assert "At most 6,000 steps." in section and claim.note not in section and "at least 0.05 | 0.100 | yes" in section
    assert all(condition.text in section for condition in claim.conditions) and f"`subq reproduce {claim.id}`" in section
    assert f"{OLDER}: {HOLDS} |" in found and "1 was measured in an older form" in found


def test_another_note_leaves_the_verdict_and_stays_with_its_measurement(claim: Claim) -> None:
    form = dataclasses.replace(claim.form, note="At most 6,000 steps.")
    found = page.page({claim.id: made(claim.id, form=form, numbers=GOOD)})
    assert f"**Verdict: {HOLDS}.** At most 6,000 steps." in found and claim.note not in found and "1 holds" in found


def test_a_result_that_does_not_say_what_was_asked_is_judged_by_what_is_asked_now(claim: Claim) -> None:
    result = dataclasses.replace(made(claim.id, numbers=GOOD), form=None)
    found = page.page({claim.id: result})
    assert f"**Verdict: {HOLDS}.** The result does not say what was asked" in found and claim.note not in found
    other = dataclasses.replace(made(claim.id, numbers={"something else": 1.0}), form=None)
    assert standing(claim, other).word == NOT_RUN and page.judged_again(other) is other
    assert page.by_claim([other]) == {} and page.by_claim([result]) == {claim.id: result}


def test_counts_are_english() -> None:
    assert counted([FAILS, HOLDS, NOT_RUN, HOLDS]) == "2 hold, 1 does not hold, 1 not run yet"
    assert counted([FAILS, FAILS, UNMEASURABLE]) == "2 do not hold, 1 not measurable here"
    assert counted([UNDECIDED, OLDER, OLDER]) == "1 undecided, 2 were measured in an older form"


def test_the_page_and_its_plots_are_written_the_same_each_time(tmp_path: Path, claim: Claim) -> None:
    plot = Plot(x="size", y="pairs", series={"a": [(1.0, 2.0), (2.0, 4.0)], "b": [(1.0, 1.0), (2.0, 2.0)]}, dashed=("b",))
    result = made(claim.id, numbers=GOOD, plot=plot)
    (tmp_path / "docs").mkdir()
    (tmp_path / page.IMAGES).mkdir(parents=True)
    (tmp_path / page.IMAGES / "gone.svg").write_text("")
    written = []
    for _ in range(2):
        page.write(tmp_path, {claim.id: result})
        written.append([path.read_bytes() for path in (tmp_path / page.PAGE, tmp_path / page.IMAGES / f"{claim.id}.svg")])
    assert written[0] == written[1] and [path.name for path in (tmp_path / page.IMAGES).iterdir()] == [f"{claim.id}.svg"]
