"""Which models have learned something: more than a guess that looks at no context, which is what the rest of a verdict needs."""

from __future__ import annotations

from ..observed import rows_of, scored, scores, tried
from ..results import Comparison, Trial
from ..wording import label, listed, sentence, value

MARGIN = 0.02  # of a loss: who is better than the guess by less has hardly learned more
CHANCE = 0.025  # with which the guess is right on as many rows as a model that is said to have learned more


def guess(comparison: Comparison) -> tuple[str, float] | None:
    """What a model without any context reaches, in words and in the unit: by the frequencies of tokens, or with one answer for all rows.
    None where the comparison has no such reference."""
    for name, number in (comparison.data.get("references") or {}).items():
        key = str(name).replace("_", " ")
        if not isinstance(number, int | float) or (comparison.more_is_better and key.endswith(("per byte", "per token", "loss"))):
            continue
        if key.startswith("most common class") and comparison.more_is_better:
            return "the most common class", float(number)
        if key.startswith("unigram"):
            return f"{_token(comparison)} frequencies", float(number)
    return None


def has_learned(comparison: Comparison, trial: Trial) -> bool:
    """Whether a run is better than the guess: by `MARGIN` of a loss; of an accuracy by more than the rows that were scored make by chance.
    True where there is no guess to compare with."""
    found = guess(comparison)
    if found is None or trial.value is None:
        return found is None
    if not comparison.more_is_better:
        return trial.value < (1 - MARGIN) * found[1]
    from scipy.special import bdtrc

    rows = rows_of(comparison, trial)
    right = round(trial.value * rows)
    return trial.value > found[1] and (rows < 1 or float(bdtrc(right - 1, rows, found[1])) < CHANCE)


def unlearned(comparison: Comparison) -> dict[str, tuple[int, int]]:
    """Entries with a result of which not every run has learned: (how many have not, of how many)."""
    found = {}
    for name in scores(comparison):
        runs = [trial for trial in comparison.done(name) if scored(trial)]
        bad = sum(not has_learned(comparison, trial) for trial in runs)
        if bad:
            found[name] = (bad, len(runs))
    return found


def learned(comparison: Comparison) -> list[str]:
    """Entries every run of which has learned: those that conclusions on context and speed of learning may be drawn from."""
    bad = unlearned(comparison)
    return [name for name in tried(comparison) if name in scores(comparison) and name not in bad]


def nothing_learned(comparison: Comparison) -> bool:
    """Whether there are results, and not one model that has learned something in all its runs."""
    return bool(scores(comparison)) and not learned(comparison)


def the_guess(comparison: Comparison) -> str:
    """`byte frequencies (5.156 bits/byte)`; of accuracies that are higher, and not on enough rows, that they are within chance of it."""
    found = guess(comparison)
    if found is None:
        return ""
    higher = [
        (trial.value, rows_of(comparison, trial))
        for trial in comparison.trials
        if comparison.more_is_better and scored(trial) and trial.value is not None and trial.value > found[1]
        and not has_learned(comparison, trial)
    ]  # fmt: skip
    best, rows = max(higher, default=(0.0, 0))
    more = f"; on {rows:,} rows {value(best, comparison.unit)} is within chance of it" if higher else ""
    return f"{found[0]} ({value(found[1], comparison.unit)}{more})"


def none_learned(comparison: Comparison) -> str:
    """That nobody has: the verdict of such a comparison."""
    bad = unlearned(comparison)
    who = "no model has" if len(bad) > 1 else f"{label(comparison, next(iter(bad)))} has not"
    every = " in all its runs" if any(count < runs for count, runs in bad.values()) else ""
    return f"{who} learned more than {the_guess(comparison)}{every}"


def not_learned(comparison: Comparison, name: str) -> str:
    """Of one model that has not learned in all its runs: `it has learned no more than byte frequencies in 2 of 3 runs`; else nothing."""
    if name not in (bad := unlearned(comparison)):
        return ""
    return f"it has learned no more than {the_guess(comparison)} in {_runs(*bad[name])}"


def learned_sentence(comparison: Comparison) -> str | None:
    """Who has learned no more than the guess, where somebody else has."""
    bad = unlearned(comparison)
    if not bad or nothing_learned(comparison):
        return None
    each = [f"{label(comparison, name)} ({_runs(count, runs)})" for name, (count, runs) in bad.items()]
    have = "has" if len(bad) == 1 else "have"
    rest = "its" if len(bad) == 1 else "their"
    return sentence(
        f"{listed(each)} {have} learned no more than {the_guess(comparison)}: nothing is concluded from {rest} use of the context or speed "
        "of learning, and longer training (--budget) may change the order"
    )


def _runs(bad: int, runs: int) -> str:
    return "one run" if runs == 1 else f"all {runs} runs" if bad == runs else f"{bad} of {runs} runs"


def _token(comparison: Comparison) -> str:
    return "byte" if comparison.data.get("tokenizer") == "bytes" and comparison.unit != "bits/value" else "token"
