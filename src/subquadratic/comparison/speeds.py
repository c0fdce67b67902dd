"""Time and memory of the entries against length, as part of a comparison."""

from __future__ import annotations

import dataclasses
import itertools

from .comparing import Comparing
from .results import Speed


def measure_speeds(made: Comparing) -> None:
    """What is not measured yet, in the time that is meant for it."""
    settings, entries = made.comparison.settings, made.taking_part()
    if settings.get("speed_of") == [entry.name for entry in entries]:
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

    longest = made.options.longest
    lengths = None if longest is None else list(itertools.takewhile(lambda length: length <= longest, doubling(SHORTEST))) or [longest]
    known = list(made.comparison.speeds)
    measure_speed(
        specs, vocab_size=made.comparison.data["vocab_size"], budget=settings["conditions"]["speed_seconds"], lengths=lengths, known=known,
        save=save, show=made.display.doing, threads=made.options.threads, device="cuda" if made.comparison.machine.get("gpu") else "cpu",
    )  # fmt: skip
    made.display.done()
    settings["speed_of"] = [entry.name for entry in entries]
    reached = max((speed.length for speed in made.comparison.speeds if speed.train_seconds), default=0)
    made.display.report("speed", f"speed       measured up to {reached:,} tokens", longest=reached)
    made.keep()
