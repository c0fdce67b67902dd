"""What was not tried and why, what failed, and what is still to be done."""

from __future__ import annotations

from ..observed import scored, scores, tried, why_failed
from ..results import Comparison
from ..statistics import differences
from ..wording import label, listed, one_line, sentence

LATENTS = "perceiver_ar"


def not_tried(comparison: Comparison) -> list[tuple[str, str]]:
    """(label, reason) of every entry that was skipped."""
    return [(label(comparison, entry.name), one_line(entry.skipped, 400)) for entry in comparison.entries if entry.skipped]


def failed(comparison: Comparison) -> list[str]:
    """A sentence for every entry of which a run failed."""
    lines = []
    for name in tried(comparison):
        trials = [trial for trial in comparison.trials if trial.entry == name]
        bad = [trial for trial in trials if why_failed(trial)]
        if bad:
            which = "its run" if len(trials) == 1 else f"{len(bad)} of {len(trials)} runs"
            rest = "" if len(bad) == len(trials) else "; its numbers are of the others"
            lines.append(sentence(f"{label(comparison, name)} failed in {which}: {one_line(why_failed(bad[0]))}{rest}"))
    return lines


def unfinished(comparison: Comparison) -> list[str]:
    """What an interrupted comparison lacks."""
    waiting = [trial for trial in comparison.trials if trial.status == "waiting"]
    lines = []
    if waiting:
        each = listed([f"{label(comparison, name)} {_seeds(comparison, name)}" for name in tried(comparison) if _seeds(comparison, name)])
        what = f"{len(waiting)} of {len(comparison.trials)} runs are still to be done ({each})"
        lines.append(f"This comparison is not finished: {what}; subq compare --resume with its folder goes on.")
    elif comparison.interrupted:
        lines.append("This comparison is not finished: subq compare --resume with its folder goes on.")
    if comparison.interrupted and not comparison.speeds:
        lines.append("Speed and memory against length have not been measured yet.")
    return lines


def caveats(comparison: Comparison) -> list[str]:
    """What a reader should know before acting on the verdict."""
    found = scores(comparison)
    seeds = {len(by_seed) for by_seed in found.values()}
    pairs = differences(found)
    lines = []
    tested = sum(pair.low is not None for pair in pairs)
    if tested == 1:
        lines.append("The interval is the 95% t-interval of the paired differences over seeds.")
    elif tested:
        lines.append(
            f"Intervals are t-intervals of paired differences over seeds, wide enough that a false verdict on any of the {tested} pairs of "
            "models comes up in at most 5% of comparisons."
        )
    if tested and min(pair.count for pair in pairs if pair.low is not None) == 2:
        lines.append("Of two seeds an interval is wide: of three (--seeds 3) it would be less than a third as wide, with the same spread.")
    if found and seeds == {1}:
        lines.append("Every model has one finished run: differences may be chance, and no better or worse is claimed.")
    if any(speed.entry == LATENTS and speed.train_seconds for speed in comparison.speeds):
        latents = comparison.entry(LATENTS).options.get("fields", {}).get("latents", "a part")
        lines.append(
            f"{label(comparison, LATENTS)} predicts {latents} tokens of a sequence in a training step, those at its latents, however long "
            "the sequence is: what a step costs is not what a predicted token costs."
        )
    if found:
        lines.append(
            "All this is about this data, length, budget and size of model: longer training or larger models may change the order."
        )
    return lines


def runs_done(comparison: Comparison) -> str:
    """`20 of 21 runs finished`."""
    return f"{sum(map(scored, comparison.trials))} of {len(comparison.trials)} runs finished"


def _seeds(comparison: Comparison, name: str) -> str:
    found = [trial.seed for trial in comparison.trials if trial.entry == name and trial.status == "waiting"]
    return f"seed{'s' * (len(found) > 1)} {', '.join(map(str, sorted(found)))}" if found else ""
