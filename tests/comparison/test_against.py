"""Two comparisons side by side: what may be, what differs, and by how much."""

import dataclasses

import pytest
from scipy import stats
from tests.comparison import synthetic

from subquadratic.comparison.against import against


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "digest"}, "other data"), ({"data": "kind"}, "data of another kind"), ({"data": "tokenizer"}, "another tokenizer"),
        ({"settings": "length"}, "another length: 'x'.*4096"), ({"unit": None}, "another unit: 'x'"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(changes: dict[str, str | None], message: str) -> None:
    here = synthetic.comparison(names=("performer",))
    ((name, key),) = changes.items()
    there = dataclasses.replace(here, **{name: "x" if key is None else {**getattr(here, name), key: "x"}})
    with pytest.raises(ValueError, match=f"against: that comparison has .*{message}"):
        against(here, there)


def test_what_differs() -> None:
    here, there = synthetic.comparison(names=("performer",)), synthetic.comparison(names=("performer",))
    assert against(here, there).conditions == []
    there.settings["run_seconds"] = 600.0
    there.machine["date"] = "later"
    there.machine["packages"]["torch"] = "9.9"
    there.entries[0].parameters = 1_000_000
    ours = f"{here.entries[0].parameters:,}"
    assert against(here, there).conditions == [
        ("training of a run, s", "120", "600"), ("torch", "2.13.0+cpu", "9.9"), ("parameters of performer", ours, "1,000,000"),
    ]  # fmt: skip


def test_scores_and_times() -> None:
    here, there = synthetic.comparison(names=("performer", "transformer")), synthetic.comparison(names=("performer", "fastformer"), seed=1)
    for trial in there.trials:
        trial.value = None if trial.value is None else trial.value - 0.3
    for speed in there.speeds:
        speed.train_seconds = [2 * second for second in speed.train_seconds]
    found = against(here, there)
    assert [(side.name, side.here is None, side.there is None) for side in found.sides] == [
        ("performer", False, False), ("transformer", False, True), ("fastformer", True, False),
    ]  # fmt: skip
    difference = found.sides[0].difference
    values = [[trial.value for trial in side.trials if trial.entry == "performer"] for side in (here, there)]
    interval = stats.ttest_ind(*values, equal_var=False).confidence_interval(0.95)
    assert difference is not None and (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    assert found.sides[1].difference is None
    ratios = {(ratio.quantity, ratio.length): ratio.ratio for ratio in found.ratios if ratio.name == "performer"}
    assert ratios["train_seconds", 4096] == pytest.approx(0.5, rel=0.1) and ratios["train_seconds", 65536] == pytest.approx(0.5, rel=0.1)
