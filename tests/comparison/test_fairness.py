"""What a verdict tells of the comparison itself: who has learned nothing, whose size or budget differs, which rows were scored."""

import math
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from tests.comparison import synthetic
from tests.comparison.synthetic import plain

from subquadratic.comparison.against import against
from subquadratic.comparison.findings.learned import MARGIN, learned, unlearned
from subquadratic.comparison.report.page import material, render
from subquadratic.comparison.results import Comparison, Cut, Point, Rate
from subquadratic.comparison.terminal import lines
from subquadratic.comparison.verdict import judge

OURS = ("fastformer", "performer", "transformer")
BYTES = {"unigram_bits_per_byte": 5.156, "xz_bits_per_byte": 2.44}


def said(found: Comparison) -> str:
    verdict = judge(found)
    return "\n".join([*verdict.warnings, verdict.headline, *verdict.more, *verdict.quality, *verdict.context, *verdict.caveats])


def with_context(values: dict[str, list[float]], references: dict[str, float]) -> Comparison:
    """Runs that learn in no time, and do not use the half of their context that is far."""
    found = plain({name: list(scores) for name, scores in values.items()})
    found.data["references"] = references
    for trial in found.trials:
        assert trial.value is not None
        end, shift = trial.value, 1e-4 * trial.seed
        trial.cuts = [Cut(context=128, predicted=9, value=end + shift), Cut(context=256, predicted=9, value=end)]
        trial.curve = [Point(step=n, tokens=n, seconds=n + shift, flops=n, value=8.0 + (end - 8.0) * n / 10) for n in (0, 4, 10)]
        trial.seconds = 10.0
    return found


SCORES = st.lists(st.sampled_from([2.0, 3.0, 5.0, 5.04, 5.06, 5.1, 5.156, 5.2, 6.0]), min_size=1, max_size=3)


@given(st.fixed_dictionaries(dict.fromkeys(OURS, SCORES)))
@example({"fastformer": [3.770, 2.865, 3.692], "performer": [5.175, 5.096, 5.213], "transformer": [5.155, 3.898, 5.098]})
@example({"fastformer": [6.1], "performer": [6.0], "transformer": [5.9]})
def test_nothing_is_concluded_from_models_that_learned_no_more_than_byte_frequencies(values: dict[str, list[float]]) -> None:
    found = with_context(values, BYTES)
    good = [name for name in OURS if all(score < (1 - MARGIN) * 5.156 for score in values[name])]
    assert set(learned(found)) == set(good)
    verdict, first = judge(found), (judge(found).warnings or [judge(found).headline])[0]
    if not good:
        assert re.search(r"no model has learned more than byte frequencies \(5\.156 bits/byte\)", verdict.headline)
        assert not re.search(r"\b(better than|the lowest of|reaches)\b", verdict.headline)
        assert verdict.quality == verdict.context == verdict.more == [] and verdict.choices[0].undecided
    for name, words in (("fastformer", "Fastformer"), ("performer", "Performer"), ("transformer", "xact attention")):
        if name in good:
            continue
        if good:
            bad = sum(score >= (1 - MARGIN) * 5.156 for score in values[name])
            runs = len(values[name])
            count = "one run" if runs == 1 else f"all {runs} runs" if bad == runs else f"{bad} of {runs} runs"
            assert f"{words} ({count})" in first and "byte frequencies (5.156 bits/byte)" in first
        assert not any(line.startswith((words, f"E{words}")) for line in verdict.context)
        assert not any("reaches what" in line and words in line for line in [*verdict.quality, *verdict.more])
    assert " ".join(first.split()) in " ".join(" ".join(lines(found)).split())


def classifiers(values: dict[str, list[float]], *, scored: int, common: float, there: int = 1000) -> Comparison:
    found = plain({name: list(scores) for name, scores in values.items()}, unit="accuracy")
    found.settings["conditions"] = {"items": scored}
    found.data |= {"references": {"most_common_class_accuracy": common}, "validation_items": there}
    for trial in found.trials:
        trial.predicted = scored
    return found


@given(st.integers(8, 400), st.floats(0.3, 0.97), st.floats(0, 1))
@example(71, 0.90625, 66 / 71)  # 93.0 % on 71 rows, by answering the class that 90.6 % of all 256 have
@example(63, 0.532, 0.5397)
def test_a_classifier_has_learned_if_its_rows_show_it(rows: int, common: float, share: float) -> None:
    right = round(rows * share)
    found = classifiers({"performer": [right / rows] * 2, "transformer": [right / rows] * 2}, scored=rows, common=common)
    test = stats.binomtest(right, rows, common, alternative="greater").pvalue
    if abs(test - 0.025) > 1e-9:
        assert (unlearned(found) == {}) == (test < 0.025 and right / rows > common)
    headline = judge(found).headline
    if unlearned(found):
        assert "no model has learned more than the most common class (" in headline
    assert "fewer than two" not in said(found)
    if not unlearned(found):
        assert "every seed has the same difference to" in headline and "(0.0 points), which gives no interval" in headline


def test_a_best_model_below_the_most_common_class_is_no_best_model() -> None:
    found = classifiers({"performer": [0.492, 0.492, 0.508], "transformer": [0.508, 0.524, 0.540]}, scored=63, common=0.532, there=154)
    verdict = judge(found)
    assert "no model has learned more than the most common class (53.2%; on 63 rows 54.0% is within chance of it)" in verdict.headline
    assert "better" not in verdict.headline.replace("which is better", "")
    assert any(line.startswith("Scores are of 63 of 154 validation rows, the same for all.") for line in verdict.caveats)
    assert "<dt>scored on</dt><dd>63 of 154 validation rows</dd>" in render(material(found))


def test_an_interval_of_accuracies_includes_the_rows() -> None:
    values = {"performer": [0.70, 0.71, 0.72], "transformer": [0.74, 0.76, 0.75]}
    few, many = (classifiers(values, scored=rows, common=0.3, there=10**6) for rows in (60, 10**6))
    assert "the highest of 2 models" in judge(many).headline
    assert "cannot be said: the difference is within what seeds and rows make" in judge(few).headline
    assert "over seeds and the rows scored" in said(few)


@given(st.sampled_from([64_000, 97_900, 98_100, 100_000, 101_900, 102_100, 165_892]))
def test_equal_parameters_are_said_of_equal_parameters(count: int) -> None:
    found = plain({"performer": [2.0, 2.1], "transformer": [2.2, 2.3]})
    found.settings["parameters"] = 100_000
    found.entries[0].parameters, found.entries[1].parameters = count, 100_500
    equal = abs(count / 100_000 - 1) <= 0.02
    page, warnings = render(material(found)), " ".join(judge(found).warnings)
    assert ("about 100,000 parameters" in page) == equal
    assert ("Parameters are not equal" in warnings) == (not equal)
    if not equal:
        change = f"{count / 100_000 - 1:+.0%}"
        assert warnings == f"Parameters are not equal: Performer has {count:,} ({change}); the others have about 100,000."
        assert f"Performer has {count:,} ({change})" in page and "Performer has" in " ".join(lines(found)).replace("\n", " ")


@pytest.mark.parametrize(("steps", "told"), [([93, 96, 140], True), ([100, 114, 110], False), ([100], False)])
def test_uneven_steps_in_equal_time_are_told(steps: list[int], told: bool) -> None:
    found = plain({"performer": [2.0] * len(steps), "transformer": [2.2] * len(steps)})
    for trial in found.trials:
        trial.steps = steps[trial.seed] if trial.entry == "performer" else 50
    text = " ".join(judge(found).warnings)
    assert ("(Performer 93 to 140)" in text and "something else used the machine" in text) == told
    found.settings["equal"] = "tokens"
    assert "steps" not in " ".join(judge(found).warnings)


def test_a_budget_that_was_not_equal_is_told() -> None:
    found = plain({"performer": [2.0, 2.1], "transformer": [2.2, 2.3]})
    for trial in found.trials:
        trial.seconds = 100.0 if trial.entry == "performer" else 120.0
    assert judge(found).warnings == ["Training time is not equal: exact attention had 20% more than Performer."]


def test_a_rate_at_the_edge_is_told() -> None:
    found = plain({"performer": [2.0, 2.1], "transformer": [2.2, 2.3]})
    for entry in found.entries:
        entry.rates = [Rate(rate=rate, score=1 / rate, steps=1, seconds=1.0) for rate in (1e-3, 2e-3)]
        entry.rate = 2e-3
    told = "All models did best at the highest learning rate tried: their best may lie beyond it (--rates 5)."
    assert told in judge(found).caveats
    found.entries[0].rate = 1e-3
    edges = [line for line in judge(found).caveats if "learning rate" in line]
    assert [line.split(":")[0] for line in edges] == [
        "Exact attention did best at the highest learning rate tried", "Performer did best at the lowest learning rate tried",
    ]  # fmt: skip


def test_a_place_in_the_curve_is_set_beside_when_the_other_first_had_it() -> None:
    """Who is where he ends from the beginning has taken no time to get there."""
    found = classifiers({"performer": [0.9, 0.91, 0.9], "transformer": [0.9] * 3}, scored=5000, common=0.3, there=5000)
    for trial in found.trials:
        at = 4 if trial.entry == "performer" else 1
        pace = 1 + 0.001 * trial.seed * (at == 4)
        trial.curve = [Point(step=n, tokens=n, seconds=n * pace, flops=n, value=0.3 if n < at else 0.9) for n in range(17)]
    text = said(found)
    assert "Performer reaches what" not in text


def test_cuts_of_different_predictions_are_not_drawn_at_one_height() -> None:
    found = synthetic.comparison(names=("performer", "transformer"))
    page: Any = render(material(found))
    assert "The same predictions with the context cut" in page and "Time ended before" not in page
    for trial in found.trials:
        if trial.entry == "performer":
            trial.cuts = [Cut(context=cut.context, predicted=20_000, value=cut.value) for cut in trial.cuts]
    page = render(material(found))
    assert "How much worse with the context cut" in page and "(in a run: Performer 20,000 and exact attention 30,000)" in page
    (chart,) = (chart for chart in material(found).context if chart.slug == "context")
    assert all(line.marks[-1].y == 0 and math.isclose(line.marks[-1].x, 4096) for line in chart.lines)


def test_a_masked_model_has_tokens_on_both_sides() -> None:
    found = with_context({"performer": [2.0] * 3, "transformer": [2.2] * 3}, BYTES)
    found.data["causal"] = False
    verdict = judge(found)
    assert verdict.context[0].startswith("Performer does not use more than the nearest 128 of 256 tokens")
    page = render(material(found))
    assert "half of them on either side" in page and "tokens before it" not in page


def test_scores_of_other_rows_are_not_subtracted() -> None:
    here = classifiers({"performer": [0.7, 0.71, 0.72]}, scored=60, common=0.3)
    there = classifiers({"performer": [0.6, 0.61, 0.62]}, scored=60, common=0.3)
    assert against(here, there).sides[0].difference is not None and against(here, there).notes == []
    there.settings["conditions"] = {"items": 61, "examine_seconds": 0.4037866567849919}
    for trial in there.trials:
        trial.predicted = 61
    found = against(here, there)
    assert found.sides[0].difference is None
    told = "Scores here are of 60 of 1,000 validation rows, there of 61 of 1,000 validation rows"
    assert told in found.notes[0] and told in " ".join(lines(here, against=found)) and told in render(material(here, found))
    assert "examine" not in render(material(here, found)) and ("validation rows or windows", "60", "61") in found.conditions
