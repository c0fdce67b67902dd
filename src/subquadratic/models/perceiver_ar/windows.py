"""Which latents a stream computes: the runs of the latent layers that take each row from one number of tokens to another."""

from typing import NamedTuple

from ...attention.latent.right_aligned import Counts
from ..configs.perceiver_ar import PerceiverARConfig


class Window(NamedTuple):
    """One run of the latent layers for one row, in positions of its real tokens."""

    first: int  # the oldest latent
    start: int  # latents before this one are in the cache
    stop: int
    emit: int  # outputs are wanted from here on


def _windows(config: PerceiverARConfig, before: int, after: int) -> list[Window]:
    """The runs that a row needs to go from ``before`` tokens to ``after``."""
    if isinstance(config.refill, str):
        first = after - config.latents_at(after)
        start = before if first == 0 else first
        return [Window(first, start, after, start)] if after > before else []
    windows = []
    place = max(before, after - config.latents)  # older outputs are not asked for
    while place < after:
        first = place + 1 - config.latents_at(place + 1)
        stop = min(first + config.latents, after)
        cached = first == before - config.latents_at(before) and config.latents_at(before) < config.latents
        windows.append(Window(first, before if cached else first, stop, place))
        place = stop
    return windows


def rounds_of(config: PerceiverARConfig, counts: Counts) -> list[list[Window]]:
    """One window per row and round. Rows that need fewer rounds wait, keeping their latents, and come in at the end."""
    rows = [_windows(config, before, after) for before, after in zip(counts.before, counts.after, strict=True)]
    rounds = max(len(windows) for windows in rows)
    waits = []
    for before in counts.before:
        held = config.latents_at(before)
        waits.append(Window(before - held if held < config.latents else before, before, before, before))
    padded = [[wait] * (rounds - len(windows)) + windows for wait, windows in zip(waits, rows, strict=True)]
    return [list(column) for column in zip(*padded, strict=True)]
