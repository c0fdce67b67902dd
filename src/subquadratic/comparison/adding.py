"""`--add_model`: further entries, and another try of those that were left out or failed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..training.defaults import MODELS
from ..training.replacing import holds_run, remove_run
from .options import CompareOptions, absolute_model, comma_separated, foreign_model, ours
from .results import Comparison, Entry


def added(options: CompareOptions, names: str, comparison: Comparison) -> CompareOptions:
    """The options with further models.

    Raises:
        ValueError: a model that is no model, or one that takes part already.
    """
    mine, others = ours(options), {foreign_model(text).name: text for text in comma_separated(options.model or "")}
    for text in comma_separated(names):
        name = text if text in MODELS else foreign_model(text).name
        _check_free(comparison, name)
        if text not in MODELS:
            others[name] = absolute_model(text)
        elif text not in mine:
            mine.append(text)
    models = options.models if mine == ours(options) else ",".join(mine)
    return dataclasses.replace(options, models=models, model=",".join(others.values()) or None)


def forget(comparison: Comparison, names: str, folder: Path) -> None:
    """Make entries of these names that were left out or failed wait for another try: what is known of them goes, their runs too."""
    for text in comma_separated(names):
        name = text if text in MODELS else foreign_model(text).name
        known = next((place for place, entry in enumerate(comparison.entries) if entry.name == name), None)
        if known is None:
            continue
        comparison.entries[known] = Entry(name=name, source=comparison.entries[known].source)
        for trial in [trial for trial in comparison.trials if trial.entry == name]:
            if trial.folder and holds_run(folder / trial.folder):
                remove_run(folder / trial.folder)
            comparison.trials.remove(trial)
        conditions = comparison.settings.get("conditions") or {}
        for steps in (conditions.get("run_steps"), conditions.get("rate_steps")):
            if steps is not None and len(steps) > 1:
                steps.pop(name, None)


def _check_free(comparison: Comparison, name: str) -> None:
    entry = next((entry for entry in comparison.entries if entry.name == name), None)
    if entry is None or entry.skipped:
        return
    trials = [trial for trial in comparison.trials if trial.entry == name]
    if trials and all(trial.status == "failed" for trial in trials):
        return
    done = len(comparison.done(name))
    finished = f"with {done} finished run{'s' * (done != 1)}" if done else "and waits for its runs"
    raise ValueError(f"add_model: {name} is in the comparison already, {finished}; --resume alone does what is left to do")
