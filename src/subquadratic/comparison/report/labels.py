"""Where names stand in a chart: none over another."""

from __future__ import annotations

from collections.abc import Sequence

LETTER, LINE = 7.0, 15.0  # of a label at 13 px: width of a letter on average, and height
Box = tuple[float, float, float, float]  # left, top, right, bottom


def spread_out(wanted: Sequence[float], low: float, high: float, *, gap: float = LINE) -> list[float]:
    """Heights as near to the wanted ones as may be, each `gap` from the next, between `low` and `high` if they fit there."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    groups: list[list[float]] = []  # the heights wanted by labels that stand one under the other
    for index in order:
        groups.append([wanted[index]])
        while len(groups) > 1 and _top(groups[-1], low, high, gap) < _top(groups[-2], low, high, gap) + gap * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    places = [0.0] * len(wanted)
    for index, place in zip(order, (_top(group, low, high, gap) + gap * nth for group in groups for nth in range(len(group))), strict=True):
        places[index] = place
    return places


def beside(points: Sequence[tuple[float, float]], names: Sequence[str], area: Box) -> list[tuple[float, float, str]]:
    """For every point the place of its name and how it is anchored there: right of it, left, above or below, wherever it meets neither
    another name nor a point, nor leaves the area."""
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    found = []
    for (x, y), name in zip(points, names, strict=True):
        width = LETTER * len(name)
        tries = [
            (x + 9, y + 4, "start"),
            (x - 9, y + 4, "end"),
            (x, y - 10, "middle"),
            (x, y + 20, "middle"),
            (x + 9, y - 9, "start"),
            (x + 9, y + 18, "start"),
            (x - 9, y - 9, "end"),
            (x - 9, y + 18, "end"),
            (x + 9, y - 24, "start"),
            (x + 9, y + 33, "start"),
            (x - 9, y - 24, "end"),
            (x - 9, y + 33, "end"),
        ]
        best = min(tries, key=lambda place: _meets(_box(place, width), taken, area))
        taken.append(_box(best, width))
        found.append(best)
    return found


def _top(group: Sequence[float], low: float, high: float, gap: float) -> float:
    """Where the first of a group stands, so that the group is centred on what its labels want."""
    room = gap * (len(group) - 1)
    centred = sum(group) / len(group) - room / 2
    return max(low, min(centred, high - room))


def _box(place: tuple[float, float, str], width: float) -> Box:
    x, y, anchor = place
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return left, y - 11, left + width, y + 3


def _meets(box: Box, taken: Sequence[Box], area: Box) -> float:
    """How much of a label would lie on something else, or outside."""
    over = sum(_shared(box, other) for other in taken)
    return over + (box[2] - box[0]) * (box[3] - box[1]) - _shared(box, area)


def _shared(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
