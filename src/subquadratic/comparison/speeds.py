"""Time and memory of the entries against length, as part of a comparison."""

from __future__ import annotations

import dataclasses
import itertools

from .comparing import Comparing
from .remaining import speed_seconds
from .results import Speed

LEAST = 0.5  # of the time that was meant for it, where the budget is used up


def measure_speeds(made: Comparing) -> None:
    """What is not measured yet, in the time that is meant for it, or less where the budget ends before.

    All entries are measured in turns, so that one round of each stands beside one of the others: after an entry was added, all are
    measured again.
    """
    settings, entries = made.comparison.settings, made.taking_part()
    names = [entry.name for entry in entries]
    if settings.get("speed_of") != names:
        made.comparison.speeds, settings["speed_of"], settings["speed_done"] = [], names, False
    elif settings.get("speed_done", True):
        return
    specs = {entry.name: made.ask("measuring speed", "spec", entry=dataclasses.asdict(entry)) for entry in entries}
    made.workers.close()  # its memory is for those that are measured
    from .measuring.speed import SHORTEST, doubling, measure_speed

    session = 1 + max((speed.session for speed in made.comparison.speeds), default=-1)

    def save(speeds: list[Speed]) -> None:
        for speed in speeds:
            speed.session = session
        made.comparison.speeds += speeds
        made.keep()

    made.expect(speed_seconds(made.comparison))
    longest = made.options.longest
    lengths = None if longest is None else list(itertools.takewhile(lambda length: length <= longest, doubling(SHORTEST))) or [longest]
    wanted = settings["conditions"]["speed_seconds"]
    measure_speed(
        specs, vocab_size=made.comparison.data["vocab_size"], budget=max(LEAST * wanted, min(wanted, made.budget_left())), lengths=lengths,
        known=list(made.comparison.speeds), save=save, show=made.display.doing, threads=made.options.threads,
        device="cuda" if made.comparison.machine.get("gpu") else "cpu",
    )  # fmt: skip
    made.display.done()
    settings["speed_done"] = True
    _say(made, names)
    made.keep()


def _say(made: Comparing, names: list[str]) -> None:
    """How far it went, and which entries have no measurement at all, with the reason."""
    speeds = made.comparison.speeds
    reached = max((speed.length for speed in speeds if speed.train_seconds), default=0)
    text = f"speed       measured up to {reached:,} tokens" if reached else "speed       nothing was measured"
    made.display.report("speed", text, longest=reached)
    for name in names:
        own = [speed for speed in speeds if speed.entry == name]
        if not any(speed.train_seconds for speed in own):
            why = next((speed.note for speed in own if speed.note), "no time was left")
            made.display.report("note", f"note        speed of {name} is not known: {why}", entry=name, why=why)
