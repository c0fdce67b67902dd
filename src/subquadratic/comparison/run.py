"""A comparison from its first question to its last."""

from __future__ import annotations

from .comparing import Comparing
from .preparing import prepare
from .results import Comparison
from .speeds import measure_speeds
from .trials import examine, is_examined, search_rates, train, waiting_trials


def run(made: Comparing) -> Comparison:
    """Everything that is not there yet.

    Raises:
        ValueError: the data cannot be used, or the time is too short.
        WorkError: the data could not be read.
    """
    with made.closing():
        made.keep()  # from now on it can be gone on with
        prepare(made)
        for entry in made.taking_part():
            search_rates(made, entry)
        for trial in waiting_trials(made):
            train(made, trial)
        for trial in made.comparison.trials:
            if trial.status == "done" and not is_examined(made, trial):
                examine(made, trial)
        measure_speeds(made)
        made.comparison.interrupted = False
        made.keep()
    return made.comparison


def dry_run(made: Comparing) -> None:
    """Says what `run` would do; trains nothing."""
    with made.closing():
        prepare(made)
        conditions = made.comparison.settings["conditions"]
        items = f"{conditions['items']:,} of {made.comparison.data['validation_items']:,}"
        count = len(made.taking_part()) * made.options.seeds
        made.display.say(f"runs        {count}, each validated on {items} windows or rows")
        made.display.say("nothing was written; leave --dry_run out to compare")
