"""The tables of the page, as rows of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...benchmark.report import seconds
from ...evaluation.report import amount, size
from ..findings.context import losses, masked
from ..findings.costs import reach, why_not
from ..findings.crossings import QUANTITIES, growth, in_words
from ..findings.fairness import rates_at_the_edge
from ..findings.quality import verdict
from ..findings.standings import NEAR, Standing
from ..observed import averages, compared, exact, of_trials, ranked, sampling, scored, scores, speeds, tried, why_failed
from ..results import Comparison, Trial
from ..statistics import between
from ..wording import digits, label, signed, tokens, value
from .drawing import Chart

NONE = "–"


@dataclass(frozen=True, kw_only=True)
class Table:
    """`groups` are rows, each with its header first, under the name of what they belong to (empty: nothing). `words` columns from the left
    are text, the others numbers."""

    caption: str
    head: list[str]
    groups: list[tuple[str, list[list[str]]]]
    words: int = 1
    note: str = ""
    strong: set[str] = field(default_factory=set)
    """Row headers that stand out."""


def results(comparison: Comparison) -> Table:
    """One row for each entry that has a result, the best first."""
    found = scores(comparison)
    pairs, order, unit = compared(comparison), ranked(comparison, found), comparison.unit
    base = exact(comparison) if exact(comparison) in found else next(iter(order), None)
    rows = []
    for name, whole in ((name, averages(comparison)[name]) for name in order):
        pair = between(pairs, name, base) if base is not None and name != base else None
        ends = None if whole.low is None or whole.high is None else (whole.low, whole.high)
        runs = len([trial for trial in comparison.trials if trial.entry == name])
        entry, rate = comparison.entry(name), of_trials(comparison, name, _rate)
        rows.append(
            [
                label(comparison, name),
                value(whole.mean, unit, with_unit=False),
                NONE if whole.spread is None else _spread(whole.spread, unit),
                NONE if ends is None else " to ".join(value(end, unit, decimals=digits(whole.half), with_unit=False) for end in ends),
                "reference" if name == base else NONE if pair is None else signed(pair, unit),
                "" if name == base else "no verdict" if pair is None or pair.low is None or not pair.counts else verdict(comparison, pair),
                f"{len(found[name])} of {runs}",
                amount(entry.parameters) if entry.parameters else NONE,
                *(
                    _mean(comparison, name, read, write)
                    for read, write in (
                        (lambda trial: trial.steps, lambda x: f"{x:,.0f}"),
                        (lambda trial: trial.tokens, amount),
                    )
                ),
                NONE if rate is None else amount(rate.mean),
                _mean(comparison, name, lambda trial: trial.peak_bytes, size),
            ]
        )
    against = "the reference" if base is None else label(comparison, base)
    return Table(
        caption=f"Results on the validation data, {unit}, {'highest' if comparison.more_is_better else 'lowest'} first",
        head=[
            "model",
            "mean",
            "spread",
            "95% interval",
            f"minus {against} (interval)",
            "verdict",
            "runs",
            "parameters",
            "steps",
            tokens(comparison),
            "tokens/s",
            "peak memory",
        ],
        groups=[("", rows)],
        strong={label(comparison, name) for name in order[:1]},
        note=f"Mean, spread (sample standard deviation) over seeds and t-interval over {_over(comparison)}. {_family(comparison)} "
        "Peak memory is that of the process that trained.",
    )


def all_pairs(comparison: Comparison) -> Table | None:
    """Every difference that was tested."""
    found = compared(comparison)
    rows = [
        [
            f"{label(comparison, pair.first)} minus {label(comparison, pair.second)}",
            signed(pair, comparison.unit),
            NONE if pair.low is None else f"{pair.level:.2%}",
            NONE if pair.p is None else f"{pair.p:.2g}",
            f"{pair.count}",
            "no verdict" if not pair.counts else verdict(comparison, pair),
        ]
        for pair in found
    ]
    head = ["pair", "difference (interval)", "level of the interval", "p (paired t)", "seeds", "the first is"]
    return Table(caption="Paired differences of all models", head=head, groups=[("", rows)], note=_family(comparison)) if rows else None


def growths(comparison: Comparison) -> Table | None:
    """How costs grow with the length, and how long a sequence fits."""
    names = [name for name in tried(comparison) if speeds(comparison, name)]
    rows = []
    for name in names:
        end = reach(comparison, name)
        why = why_not(end[1]) if end is not None and end[1] is not None else ""
        powers = [_power(growth(comparison, name, quantity)) for quantity in QUANTITIES]
        rows.append([label(comparison, name), why, *powers, NONE if end is None else f"{end[0]:,}"])
    if not rows:
        return None
    return Table(
        caption="Growth: the power of the length n",
        head=["model", "at the next length", *QUANTITIES.values(), "longest trained"],
        groups=[("", rows)],
        words=2,
        note="A power of 1 is linear, 2 quadratic, 0 constant; of a line through the three longest lengths that were measured, and of none "
        "where there are fewer.",
    )


def overtaking(comparison: Comparison, found: Sequence[Standing]) -> Table | None:
    """From what length on each costs less than exact attention."""
    words: dict[tuple[str, str], str] = {(each.entry, each.quantity): in_words(each) for each in found}
    names = dict.fromkeys(each.entry for each in found)
    rows = [[label(comparison, name), *(words.get((name, quantity), NONE) for quantity in QUANTITIES)] for name in names]
    if not rows:
        return None
    apart = " Measured apart: the two were timed in different sessions, and not in turns." if any(each.apart for each in found) else ""
    return Table(
        caption="Where each costs less than exact attention",
        head=["model", *QUANTITIES.values()],
        groups=[("", rows)],
        words=len(QUANTITIES) + 1,
        note=f"As much: within {NEAR:.0%}. Between the lengths measured costs are taken for straight lines on logarithmic axes; intervals "
        "are of 95%, from drawing rounds again (bootstrap). Undecided: the rounds leave open which costs less at the longest length that "
        f"both were measured at.{apart}",
    )


def contexts(comparison: Comparison) -> Table | None:
    """How much worse each is with its context cut."""
    found = {name: loss for name in tried(comparison) if (loss := losses(comparison, name))}
    if not found:
        return None
    all_ = sorted({context for loss in found.values() for context in loss})
    rows = [
        [label(comparison, name), *(signed(loss[context], comparison.unit) if context in loss else NONE for context in all_)]
        for name, loss in found.items()
    ]
    unit = "percentage points of accuracy less" if comparison.more_is_better else f"{comparison.unit} more"
    what = "nearest tokens, half of them on either side" if masked(comparison) else "tokens of context"
    return Table(
        caption=f"With no more than so many {what}: {unit} than with the whole window (95% interval)",
        head=["model", *(f"{context:,}" for context in all_)],
        groups=[("", rows)],
    )


def runs(comparison: Comparison) -> Table:
    """Every run, finished or not."""
    rows = []
    for trial in comparison.trials:
        done = scored(trial)
        state = "failed" if why_failed(trial) else "not done" if trial.status == "waiting" else "done"
        rows.append(
            [
                label(comparison, trial.entry),
                f"{trial.seed}",
                state,
                value(trial.value, comparison.unit, with_unit=False, decimals=4) if done and trial.value is not None else NONE,
                _known(trial.loss, "{:.4f}"),
                _known(trial.accuracy, "{:.1%}"),
                _known(trial.predicted or None, "{:,}"),
                f"{trial.steps:,}",
                amount(trial.tokens),
                amount(trial.flops),
                seconds(trial.seconds) if trial.seconds else NONE,
                size(trial.peak_bytes) if trial.peak_bytes else NONE,
                trial.folder or NONE,
            ]
        )
    head = [
        "model",
        "seed",
        "state",
        comparison.unit,
        "nats",
        "accuracy",
        "predictions",
        "steps",
        tokens(comparison),
        "FLOPs",
        "training time",
        "peak memory",
        "folder",
    ]
    return Table(caption="Every run", head=head, groups=[("", rows)])


def rates(comparison: Comparison) -> Table | None:
    """The search for learning rates."""
    names = [name for name in tried(comparison) if comparison.entry(name).rates]
    all_ = sorted({rate.rate for name in names for rate in comparison.entry(name).rates})
    if not names:
        return None
    rows = []
    for name in names:
        entry = comparison.entry(name)
        by_rate = {rate.rate: "diverged" if rate.score is None else f"{rate.score:.3f}" for rate in entry.rates}
        rows.append(
            [label(comparison, name), *(by_rate.get(rate, NONE) for rate in all_), NONE if entry.rate is None else f"{entry.rate:g}"]
        )
    head = ["model", *(f"{rate:g}" for rate in all_), "chosen"]
    note = "Mean training loss, in nats per prediction, over the last quarter of each trial."
    if rates_at_the_edge(comparison):
        note += " Where the highest or the lowest was chosen, the best may lie beyond it."
    return Table(caption="Learning rates tried", head=head, groups=[("", rows)], note=note)


def numbers(chart: Chart) -> Table:
    """What a chart shows."""
    groups = []
    for line in chart.lines:
        rows = []
        for mark in line.marks:
            ends = NONE if mark.low is None or mark.high is None else f"{chart.write_y(mark.low)} to {chart.write_y(mark.high)}"
            rows.append([chart.write_x(mark.x), chart.write_y(mark.y), ends, mark.note])
        groups.append((line.name, rows))
    head = [chart.across, chart.up, "band", "note"]
    if not any(row[3] for _, rows in groups for row in rows):
        head, groups = head[:3], [(name, [row[:3] for row in rows]) for name, rows in groups]
    return Table(caption=f"Numbers of: {chart.title}", head=head, groups=groups, words=0)


def _family(comparison: Comparison) -> str:
    pairs = compared(comparison)
    tested = [pair for pair in pairs if pair.low is not None]
    if not tested:
        if any(pair.constant for pair in pairs):
            return "Differences that are the same with every seed give no interval and no verdict."
        return "With fewer than two seeds in common there is no interval and no verdict."
    if len(tested) == 1:
        return f"The difference has the paired t-interval at 95% over {_over(comparison)}."
    return (
        f"Differences have paired t-intervals over {_over(comparison)}, at the level at which Holm's procedure tests each of the "
        f"{len(tested)} pairs, so that a false verdict on any of them comes up in at most 5% of comparisons; each interval by itself holds "
        "with 95% at least."
    )


def _over(comparison: Comparison) -> str:
    return "seeds and the rows scored" if sampling(comparison) else "seeds"


def _spread(spread: float, unit: str) -> str:
    return f"{100 * spread:.2f}" if unit == "accuracy" else f"{spread:.4f}"


def _mean(comparison: Comparison, name: str, read: Callable[[Trial], float | None], write: Callable[[float], str]) -> str:
    whole = of_trials(comparison, name, read)
    return NONE if whole is None or not whole.mean else write(whole.mean)


def _rate(trial: Trial) -> float | None:
    return trial.tokens / trial.seconds if trial.seconds > 0 else None


def _known(number: float | None, form: str) -> str:
    return NONE if number is None else form.format(number)


def _power(found: float | None) -> str:
    return NONE if found is None else f"{0.0 if abs(found) < 0.005 else found:.2f}"
