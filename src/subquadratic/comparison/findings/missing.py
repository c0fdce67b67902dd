"""What was not tried and why, what failed, and what is still to be done."""

from __future__ import annotations

from ..observed import compared, sampling, scored, scores, tried, why_failed
from ..results import Comparison
from ..wording import label, labels, listed, one_line, sentence
from .fairness import rates_at_the_edge, scored_rows

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
    pairs = compared(comparison)
    lines = []
    tested = sum(pair.low is not None for pair in pairs)
    over = "seeds and the rows scored" if sampling(comparison) else "seeds"
    if tested == 1:
        lines.append(f"The interval is the 95% t-interval of the paired differences over {over}.")
    elif tested:
        lines.append(
            f"Intervals are t-intervals of paired differences over {over}, wide enough that a false verdict on any of the {tested} pairs "
            "of models comes up in at most 5% of comparisons."
        )
    lines += _rows(comparison)
    if tested and min(pair.count for pair in pairs if pair.low is not None) == 2:
        lines.append("Of two seeds an interval is wide: of three (--seeds 3) it would be less than a third as wide, with the same spread.")
    if found and seeds == {1}:
        lines.append("Every model has one finished run: differences may be chance, and no better or worse is claimed.")
    lines += _rates(comparison)
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


def _rows(comparison: Comparison) -> list[str]:
    """What scores are of, and whether intervals know of it."""
    which = scored_rows(comparison)
    if which is None or not scores(comparison):
        return []
    if not comparison.more_is_better:
        return [f"Scores are of {which}, the same for all; intervals do not include that other text would give other scores."]
    return [
        f"Scores are of {which}, the same for all. Intervals allow for the sampling of rows as if each model had been scored on rows of "
        "its own, which makes them too wide rather than too narrow."
    ]


def _rates(comparison: Comparison) -> list[str]:
    """Whose best learning rate may lie beyond those tried."""
    edge = rates_at_the_edge(comparison)
    lines = []
    for which in ("highest", "lowest"):
        names = [name for name, side in edge.items() if side == which and name in scores(comparison)]
        if names:
            every = len(names) > 1 and len(names) == len(scores(comparison))
            who = "All models" if every else labels(comparison, names)
            their = "their" if len(names) > 1 else "its"
            said = sentence(f"{who} did best at the {which} learning rate tried").removesuffix(".")
            lines.append(f"{said}: {their} best may lie beyond it (--rates 5).")
    return lines


def runs_done(comparison: Comparison) -> str:
    """`20 of 21 runs finished`."""
    return f"{sum(map(scored, comparison.trials))} of {len(comparison.trials)} runs finished"


def _seeds(comparison: Comparison, name: str) -> str:
    found = [trial.seed for trial in comparison.trials if trial.entry == name and trial.status == "waiting"]
    return f"seed{'s' * (len(found) > 1)} {', '.join(map(str, sorted(found)))}" if found else ""
