"""How much of the context an entry uses: the same predictions from the last tokens alone."""

from __future__ import annotations

from dataclasses import dataclass

from ..observed import by_context
from ..results import Comparison
from ..statistics import Estimate, estimate
from ..wording import gap, label, listed
from .learned import learned

MARGIN = 0.005  # of the score, or of all rows where it is an accuracy: worse by less is no use of the context


@dataclass(frozen=True, kw_only=True)
class ContextUse:
    """`enough` is the shortest context that serves as well as the whole; `losing` the longest that does not, `loss` how much worse it is
    than the whole (positive). Either may be None: not measured, or not decided. Without an interval nothing is enough: that no
    difference was seen is no evidence that there is none."""

    whole: int
    enough: int | None = None
    losing: int | None = None
    loss: Estimate | None = None


def losses(comparison: Comparison, name: str) -> dict[int, Estimate]:
    """By context: how much worse than with the whole window, over seeds; positive is worse."""
    found = by_context(comparison, name)
    if len(found) < 2:
        return {}
    sign = -1 if comparison.more_is_better else 1
    whole = found[max(found)]
    each = {
        context: estimate(sign * (by_seed[seed] - whole[seed]) for seed in sorted(set(by_seed) & set(whole)))
        for context, by_seed in found.items()
        if context != max(found)
    }
    return {context: loss for context, loss in each.items() if loss is not None}


def context_use(comparison: Comparison, name: str) -> ContextUse | None:
    """From the longest cut to the shortest: as long as one is worse by less than `MARGIN` (its interval's end), it is
    enough, and the first that is not ends the search. In this fixed order each interval may have 95 %."""
    found = losses(comparison, name)
    if not found:
        return None
    cuts = by_context(comparison, name)
    values = list(cuts[max(cuts)].values())
    margin = MARGIN if comparison.more_is_better else MARGIN * abs(sum(values) / len(values))
    enough, losing, loss = None, None, None
    for context in sorted(found, reverse=True):
        here = found[context]
        if here.high is not None and here.high < margin:
            enough = context
            continue
        if (here.mean - margin if here.low is None else here.low) > 0:
            losing, loss = context, here
        break
    return ContextUse(whole=max(cuts), enough=enough, losing=losing, loss=loss)


def predictions(comparison: Comparison) -> dict[str, set[int]]:
    """By entry: how many predictions its cuts are of, run by run. Between entries, and between runs, they are the same predictions only
    where the counts are."""
    found = {entry.name: {cut.predicted for trial in comparison.done(entry.name) for cut in trial.cuts} for entry in comparison.entries}
    return {name: counts for name, counts in found.items() if counts}


def common(comparison: Comparison) -> bool:
    """Whether all cuts are of the same predictions, so that entries can be compared in them."""
    return len(set().union(*predictions(comparison).values())) <= 1


def counts_note(comparison: Comparison) -> str:
    """Of how many predictions the cuts are, where that differs."""
    return _apart(comparison, predictions(comparison))


def positions_note(comparison: Comparison) -> str:
    """Of how many predictions the scores by position are, where that differs."""
    found = {
        entry.name: {sum(span.predicted for span in trial.positions) for trial in comparison.done(entry.name) if trial.positions}
        for entry in comparison.entries
    }
    return _apart(comparison, {name: counts for name, counts in found.items() if counts})


def _apart(comparison: Comparison, found: dict[str, set[int]]) -> str:
    if len(set().union(*found.values())) <= 1:
        return ""
    each = [
        f"{label(comparison, name)} {min(counts):,}" + (f" to {max(counts):,}" if len(counts) > 1 else "") for name, counts in found.items()
    ]
    return (
        f"Time ended before all models had made the same predictions (in a run: {listed(each)}), so figures of different models are of "
        "different tokens: each line stands for itself."
    )


def masked(comparison: Comparison) -> bool:
    """Whether models see both sides of what they predict."""
    return comparison.data.get("kind", "language") == "language" and comparison.data.get("causal") is False


def context_sentences(comparison: Comparison) -> list[str]:
    """A sentence for every entry of which it is known; none of models that have not learned anything that a context could serve."""
    lines = []
    near = "nearest" if masked(comparison) else "last"
    for name in learned(comparison):
        use = context_use(comparison, name)
        if use is None or (use.enough is None and use.losing is None):
            continue
        seeds = next(iter(losses(comparison, name).values())).count
        counts = predictions(comparison)[name]
        of = f"on {min(counts):,} predictions in {'one run' if seeds == 1 else f'each of {seeds} runs'}"
        worse = None if use.loss is None else f"{gap(use.loss, comparison.unit)} worse"
        who = label(comparison, name)
        who = who[:1].upper() + who[1:] if who != name else who
        if use.enough is not None:
            rest = f"; with {use.losing:,} it is {worse}" if worse else ""
            lines.append(f"{who} does not use more than the {near} {use.enough:,} of {use.whole:,} tokens{rest} ({of}).")
        else:
            lines.append(f"{who} uses more than the {near} {use.losing:,} tokens: with no more than these it is {worse} ({of}).")
    return lines
