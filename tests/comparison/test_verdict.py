"""Is what the verdict says true, and does it say no more than the intervals allow?"""

import math
import re

import pytest
from tests.comparison import synthetic
from tests.comparison.synthetic import plain

from subquadratic.comparison.findings.quality import share_of_time
from subquadratic.comparison.results import Comparison, Cut, Point, Speed, Trial
from subquadratic.comparison.verdict import Verdict, judge

BETTER = re.compile(r"\b(better|worse|lowest|highest|reaches what|times as fast)\b")


def said(verdict: Verdict) -> str:
    choices = [f"{choice.purpose}: {choice.line}" for choice in verdict.choices]
    return "\n".join([verdict.headline, *verdict.more, *verdict.quality, *verdict.lengths, *verdict.context, *choices])


def test_a_clear_difference_is_told_with_its_interval() -> None:
    found = judge(plain({"performer": [2.30, 2.31, 2.32], "transformer": [2.35, 2.37, 2.36]}))
    # Differences -0.05, -0.06, -0.04: mean 0.05, standard error 0.01/√3, t(2) = 4.303.
    assert found.headline == (
        "At 4,096 tokens on this machine, after 2 minutes of training each, Performer reaches 2.310 bits/byte, the lowest of 2 models, "
        "0.050 (0.025 to 0.075) better than exact attention."
    )
    assert found.quality == ["Better than exact attention: Performer by 0.050 (0.025 to 0.075)."]
    assert [(choice.purpose, choice.names) for choice in found.choices] == [("lowest loss", ["performer"])]


def test_a_difference_within_the_seeds_has_no_verdict() -> None:
    found = judge(plain({"performer": [2.30, 2.38, 2.34], "transformer": [2.35, 2.33, 2.36]}))
    assert "cannot be said: the difference is within what seeds make" in found.headline
    assert found.choices[0].names == ["performer", "transformer"] and found.choices[0].undecided
    assert not [line for line in found.quality if BETTER.search(line)]
    assert found.quality == [
        "No verdict against exact attention, as the difference between exact attention and each of these is within what seeds make: "
        "Performer (-0.13 to +0.12)."
    ]


def test_one_seed_gives_no_verdict() -> None:
    verdict = judge(synthetic.comparison(seeds=1))
    assert "no verdict is possible: one seed does not tell a difference from chance" in verdict.headline
    assert verdict.quality == []
    assert not BETTER.search(verdict.headline)
    assert verdict.choices[0].undecided and "fewer than two seeds in common" in verdict.choices[0].text
    assert len(verdict.choices[0].names) == 7


@pytest.mark.parametrize("unit", ["bits/byte", "accuracy"])
def test_more_or_less_is_better(unit: str) -> None:
    low, high = [0.30, 0.31, 0.32], [0.60, 0.62, 0.61]
    found = judge(plain({"performer": low, "transformer": high}, unit=unit))
    best = "exact attention" if unit == "accuracy" else "Performer"
    assert f"{best} reaches" in found.headline
    assert ("highest" if unit == "accuracy" else "lowest") in found.headline
    assert ("30.0 (27.5 to 32.5) points" if unit == "accuracy" else "0.300 (0.275 to 0.325)") in found.headline


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"equal": "time", "run_seconds": 90.0}, "1.5 minutes"),
        ({"equal": "time", "conditions": {"run_seconds": 900.0, "run_steps": None}}, "15 minutes"),
        ({"equal": "tokens", "run_tokens": 1_500_000}, "1.50 M tokens"),
        ({"equal": "tokens", "conditions": {"run_seconds": None, "run_steps": {"performer": 7}}}, "2.00 M tokens"),
        ({"equal": "flops", "conditions": {}}, "30.0 TFLOP"),
    ],
)
def test_what_each_run_got(settings: dict[str, object], words: str) -> None:
    found = plain({"performer": [2.30, 2.31, 2.32], "transformer": [2.35, 2.37, 2.36]})
    found.settings = {"length": 4096, **settings}
    for trial in found.trials:
        trial.tokens, trial.flops, trial.seconds = 2_000_000, 30e12, 118.0
    assert f"after {words} of training each, Performer reaches" in judge(found).headline


def test_two_seeds_are_said_to_be_few() -> None:
    verdict = judge(plain({"performer": [2.30, 2.31], "transformer": [2.35, 2.37]}))
    assert "cannot be said: two seeds are too few to tell." in verdict.headline
    assert verdict.quality[0].startswith("No verdict against exact attention, as two seeds are too few: Performer (")
    assert any("Of two seeds an interval is wide" in line for line in verdict.caveats)


def test_failed_runs_are_left_out_and_told() -> None:
    found = judge(plain({"performer": [2.30, None, 2.32], "transformer": [2.35, math.nan, 2.36], "fastformer": [None, None, None]}))
    assert found.failed == [
        "Performer failed in 1 of 3 runs: ValueError: bad; its numbers are of the others.",
        "Exact attention failed in 1 of 3 runs: its score is no finite number; its numbers are of the others.",
        "Fastformer failed in 3 of 3 runs: ValueError: bad.",
    ]
    assert "reaches 2.310 bits/byte" in found.headline
    assert all(choice.names[0] != "fastformer" for choice in found.choices)


def test_a_mean_over_other_seeds_decides_nothing() -> None:
    """Performer has the lower mean, for its worst seed failed; where both ran it is worse, and clearly so."""
    verdict = judge(plain({"performer": [2.20, 2.21, None], "transformer": [2.10, 2.11001, 2.9]}))
    assert (
        "That it is better than exact attention (2.370) cannot be said: over the seeds in common exact attention is better"
        in verdict.headline
    )
    assert verdict.choices[0].undecided
    assert verdict.quality == ["Worse than exact attention: Performer by 0.100 (0.100 to 0.100)."]


def test_nothing_done_yet() -> None:
    found = synthetic.comparison(interrupted=True, speeds=[])
    found.trials = [Trial(entry=trial.entry, seed=trial.seed) for trial in found.trials]
    verdict = judge(found)
    assert verdict.headline == "No run has a result yet."
    assert verdict.unfinished[0].startswith("This comparison is not finished: 21 of 21 runs are still to be done (Performer seeds 0, 1, 2,")
    assert verdict.choices == [] and verdict.quality == []


def test_an_interrupted_comparison_says_what_is_missing() -> None:
    verdict = judge(synthetic.halfway())
    assert "11 of 21 runs are still to be done" in verdict.unfinished[0]
    assert verdict.unfinished[1] == "Speed and memory against length have not been measured yet."
    assert "there is no verdict: gated linear attention, the lowest so far, shares fewer than two finished seeds" in verdict.headline


def test_what_was_not_tried_is_told_with_its_reason() -> None:
    verdict = judge(synthetic.one_failed_one_skipped())
    ((name, reason),) = verdict.not_tried
    assert name == "Feedback Transformer" and reason.startswith("one step takes 9.1 s")
    assert "Feedback" not in said(verdict)


def run_with_curve(entry: str, seed: int, values: list[tuple[float, float]]) -> Trial:
    points = [Point(step=n, tokens=n, seconds=seconds, flops=n, value=value) for n, (seconds, value) in enumerate(values)]
    return Trial(entry=entry, seed=seed, status="done", value=values[-1][1], curve=points, seconds=values[-1][0])


def test_who_gets_there_sooner_is_read_from_the_curves() -> None:
    found = plain({"performer": [1.0], "transformer": [1.0]})
    found.trials = [run_with_curve("transformer", seed, [(50, 3.0), (100, 2.0 + 0.01 * seed)]) for seed in range(3)]
    found.trials += [run_with_curve("performer", seed, [(20, 3.0 + 0.01 * seed), (60, 1.9 + 0.02 * seed), (100, 1.8)]) for seed in range(3)]
    share = share_of_time(found, "performer", "transformer")
    assert share is not None
    expected = [(20 + 40 * (1.0 + 0.01 * s - 0.01 * s) / (1.1 - 0.01 * s)) / 100 for s in range(3)]
    assert share.mean == pytest.approx(sum(map(math.log, expected)) / 3)
    assert share_of_time(found, "transformer", "performer") is None  # it never gets there
    (text,) = (line for line in judge(found).quality if "reaches what" in line)
    assert text.startswith("Performer reaches what exact attention has at the end of its training in 0.5")
    assert text in judge(found).more
    found.trials = [trial for trial in found.trials if trial.seed == 0]
    assert "reaches what" not in said(judge(found))  # of one seed there is no interval


def test_use_of_the_context() -> None:
    found = plain({"performer": [2.0] * 3, "transformer": [2.0] * 3})
    for trial in found.trials:
        shift = 0.001 * trial.seed
        cuts = {64: 2.001 + shift, 512: 2.0005 + shift / 9} if trial.entry == "performer" else {64: 2.3 + shift, 512: 2.1 + shift}
        trial.cuts = [Cut(context=context, predicted=100, value=value) for context, value in {**cuts, 4096: 2.0}.items()]
    assert judge(found).context == [
        "Performer does not use more than the last 64 of 4,096 tokens (on 100 predictions in each of 3 runs).",
        "Exact attention uses more than the last 512 tokens: with no more than these it is 0.101 (0.099 to 0.103) worse (on 100 "
        "predictions in each of 3 runs).",
    ]
    for trial in found.trials:
        trial.cuts = [
            Cut(context=c.context, predicted=1, value=c.value + (0.3 * (trial.seed - 1) if c.context < 4096 else 0)) for c in trial.cuts
        ]
    assert judge(found).context == []  # neither can be said


def with_times(rounds: int = 5) -> Comparison:
    """Performer takes 1 ms a token, exact attention 1 ms for every thousand pairs: as long at 1,000 tokens. Their memory crosses at 700."""
    found = plain({"performer": [2.0], "transformer": [2.1]})
    for length in (256, 1024, 4096):
        shaken = [1.0, 1.01, 0.99, 1.02, 0.98][:rounds]
        own, its = [length * 1e-3 * part for part in shaken], [length**2 * 1e-6 / part for part in shaken]
        found.speeds.append(Speed(entry="performer", length=length, train_seconds=own, train_bytes=length * 700, state_bytes=10))
        found.speeds.append(Speed(entry="transformer", length=length, train_seconds=its, train_bytes=length**2, state_bytes=20))
    found.speeds.append(
        Speed(entry="transformer", length=16384, note="does not fit: a training step takes about 40 GB, and 12 GB are free")
    )
    found.speeds.append(Speed(entry="performer", length=16384, note="took too long: about 99 s more, with 5.0 s left for all of them"))
    return found


def test_lengths_and_crossings() -> None:
    found = judge(with_times())
    performer, exact, own = found.lengths
    assert re.fullmatch(
        r"Performer overtakes exact attention in training time from 1,000 tokens on \((960|970|980|990) to 1,000\) and in training "
        r"memory from 700 tokens on\. It costs less than exact attention in memory of the state at every length measured \(256 to 4,096 "
        r"tokens\)\.",
        performer,
    )
    assert exact == (
        "Exact attention trains on up to 4,096 tokens; at 16,384 it does not fit: a training step takes about 40 GB, and 12 GB are free."
    )
    assert own == "For longer sequences there was no time; measured were up to 4,096 tokens Performer."
    assert exact in found.more and performer in found.more


def test_a_crossing_of_times_measured_once_is_not_claimed() -> None:
    once = judge(with_times(rounds=1)).lengths[0]
    assert "training time" not in once and "in training memory from 700 tokens on" in once


def test_choices_for_cost_say_what_they_cost_in_quality() -> None:
    found = {choice.purpose: choice for choice in judge(synthetic.comparison()).choices}
    speed = found["training speed at 4,096 tokens"]
    assert speed.names == ["fastformer"]
    assert "times as fast as exact attention" in speed.text and "worse than that of gated linear attention" in speed.text
    assert set(found["memory while decoding after 65,536 tokens"].names) == {"performer", "linformer", "fastformer", "gated_linear"}
    decoding = found["decoding after 65,536 tokens"]  # 1.2 ms of each, measured to 2 % a round: they may differ by more than 2 %
    assert decoding.undecided and "7 measurements do not tell them apart" in decoding.text


def test_a_time_measured_once_gives_no_verdict() -> None:
    found = synthetic.comparison(names=("performer", "transformer"))
    for speed in found.speeds:
        speed.train_seconds, speed.token_seconds = speed.train_seconds[:1], speed.token_seconds[:1]
    speeds = [choice for choice in judge(found).choices if choice.purpose.startswith(("training speed", "decoding"))]
    assert len(speeds) == 2 and all(
        choice.undecided and "measured once" in choice.text and "times as fast" not in choice.text for choice in speeds
    )


@pytest.mark.parametrize("seed", range(20))
def test_equal_models_are_not_called_better(seed: int) -> None:
    """Seven models with the same distribution of scores, one of twenty seeds of the simulation at a time."""
    import random

    draw = random.Random(seed)
    found = plain({name: [draw.gauss(2.0, 0.01) for _ in range(3)] for name in synthetic.OURS})
    text = said(judge(found))
    assert not re.search(r"(?<!That it is )\b(better|worse) than|the lowest of", text), text
