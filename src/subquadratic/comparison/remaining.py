"""How long a comparison still takes, by what its parts were given."""

from __future__ import annotations

from .conditions import CHECKED, LOADING, seconds_of
from .results import Comparison, Entry

TRYING = 10.0  # seconds to size and try an entry, about


def remaining(comparison: Comparison, *, seeds: int, rates: int) -> float | None:
    """Seconds of all that is not there yet; None where the conditions are not known."""
    if "conditions" not in comparison.settings:
        return None
    settings = comparison.settings
    untried = [entry for entry in comparison.entries if not entry.parameters and not entry.skipped]
    known = [entry for entry in comparison.entries if entry.parameters and not entry.skipped]
    costs = [_of_entry(comparison, entry, seeds=seeds, rates=rates) for entry in known]
    whole = [_rates(comparison, entry, rates if rates > 1 else 0) + seeds * run_seconds(comparison, entry) for entry in known]
    found = sum(costs) + len(untried) * (TRYING + (sum(whole) / len(whole) if whole else 0.0))
    return found + (0.0 if settings.get("speed_done") and not untried else speed_seconds(comparison))


def run_seconds(comparison: Comparison, entry: Entry) -> float:
    """About how long a run takes in all, its validations among that."""
    settings, conditions = comparison.settings, comparison.settings["conditions"]
    items = conditions["items"] + CHECKED * conditions["sample_items"]
    validating = items * settings.get("item_seconds", {}).get(entry.name, 0.0)
    return float(seconds_of(comparison, entry) + validating + conditions.get("starting_seconds", 0.0))


def speed_seconds(comparison: Comparison) -> float:
    """About how long it takes to measure speed and memory."""
    return float(comparison.settings["conditions"]["speed_seconds"] + comparison.settings.get("loading_seconds", LOADING))


def _of_entry(comparison: Comparison, entry: Entry, *, seeds: int, rates: int) -> float:
    trials = [trial for trial in comparison.trials if trial.entry == entry.name]
    waiting = seeds - sum(trial.status != "waiting" for trial in trials)
    looked = [*comparison.settings.get("examined", []), *comparison.settings.get("not_examined", {})]
    unexamined = waiting + sum(trial.status == "done" and f"{trial.entry} {trial.seed}" not in looked for trial in trials)
    searching = 0.0 if entry.rate is not None or rates == 1 else _rates(comparison, entry, rates - len(entry.rates))
    return searching + waiting * run_seconds(comparison, entry) + unexamined * comparison.settings["conditions"]["examine_seconds"]


def _rates(comparison: Comparison, entry: Entry, count: int) -> float:
    return count * seconds_of(comparison, entry, "rate") if count > 0 else 0.0
