"""Colours: enough contrast on light and dark, and lines that can be told apart without them."""

import itertools

import pytest

from subquadratic.comparison.report.style import DARK, DASHES, LIGHT, SHAPES, SURFACES, hue, pattern


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("theme", "colours"), [("light", LIGHT), ("dark", DARK)])
def test_contrast(theme: str, colours: tuple[str, ...]) -> None:
    surfaces = SURFACES[theme]
    for colour in colours:
        assert contrast(colour, surfaces["paper"]) >= 3
    for ink, paper in itertools.product(("ink", "soft", "link"), ("paper", "panel", "mark")):
        assert contrast(surfaces[ink], surfaces[paper]) >= 4.5, (ink, paper)


def deficient(colour: str, kind: str) -> tuple[float, ...]:
    """As somebody sees it without red, or without green, cones (Viénot, Brettel and Mollon 1999, in linear RGB)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    red, blue = {
        "protan": ((0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
        "deutan": ((0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
    }[kind]
    seen = [red[0] * r + red[1] * g, red[0] * r + red[1] * g, blue[0] * r + blue[1] * g + blue[2] * b]
    return tuple(max(0.0, min(1.0, part)) ** (1 / 2.2) for part in seen)


@pytest.mark.parametrize("kind", ["protan", "deutan"])
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_what_looks_alike_to_the_colour_blind_differs_in_dashes_and_markers(kind: str, colours: tuple[str, ...]) -> None:
    for one, other in itertools.combinations(range(len(colours)), 2):
        apart = sum((a - b) ** 2 for a, b in zip(deficient(colours[one], kind), deficient(colours[other], kind), strict=True)) ** 0.5
        assert apart > 0.1 or (DASHES[one] != DASHES[other] and SHAPES[one] != SHAPES[other])


def test_no_two_of_sixteen_look_alike() -> None:
    assert len(set(DASHES)) == len(DASHES) == len(set(SHAPES)) == len(SHAPES) == len(LIGHT) == len(DARK)
    looks = [(hue(style), pattern(style)) for style in range(16)]
    assert len(set(looks)) == 16
    assert [style for style in range(16) if hue(style) == 0] == [0]  # exact attention's alone
