"""Colours of the page and of charts, on light and on dark, and what tells lines apart without colour."""

from __future__ import annotations

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"

# Eight hues after Okabe and Ito (2008), told apart with every common colour blindness, darkened on white and lightened on black until each
# has three times the contrast (tests/comparison/report/test_style.py). The first is exact attention's.
LIGHT = ("#1a1a1a", "#0068a8", "#c44e00", "#00795a", "#a83f7d", "#7a5f00", "#6a4fb3", "#767676")
DARK = ("#f2f2f2", "#5cb6ef", "#ff9c4f", "#2fcb9f", "#f096c8", "#e2c14a", "#b7a4f2", "#a6a6a6")
SURFACES = {
    "light": {
        "paper": "#ffffff",
        "panel": "#f5f6f8",
        "ink": "#1b1f24",
        "soft": "#4d5661",
        "line": "#c9cfd6",
        "link": "#0757a5",
        "mark": "#e6effa",
    },
    "dark": {
        "paper": "#14171a",
        "panel": "#1e2327",
        "ink": "#eceff2",
        "soft": "#b3bcc5",
        "line": "#454d55",
        "link": "#84bdff",
        "mark": "#1d3249",
    },
}
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 4", "6 2 2 2 2 2")
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -4.8L4.6 3.6H-4.6z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 4.8L4.6 -3.6H-4.6z",
    "M-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M-4.4 -2.6L-2.6 -4.4L0 -1.8L2.6 -4.4L4.4 -2.6L1.8 0L4.4 2.6L2.6 4.4L0 1.8L-2.6 4.4L-4.4 2.6L-1.8 0z",
    "M0 -4.8L4.6 -1.5L2.8 3.9H-2.8L-4.6 -1.5z",
)


def variables(theme: str) -> str:
    """The colours of a theme as CSS variables."""
    colours = LIGHT if theme == "light" else DARK
    named = {**SURFACES[theme], **{f"c{index}": colour for index, colour in enumerate(colours)}}
    return f"color-scheme:{theme};" + "".join(f"--{name}:{colour};" for name, colour in named.items())


def themes(root: str = ":root") -> str:
    """Light, dark where the reader's system is, and where a button asks for either; light on paper."""
    return "\n".join(
        (
            f"{root}{{{variables('light')}}}",
            f"@media (prefers-color-scheme:dark){{{root}{{{variables('dark')}}}}}",
            f"{root}[data-theme=light]{{{variables('light')}}}",
            f"{root}[data-theme=dark]{{{variables('dark')}}}",
            f"@media print{{{root},{root}[data-theme]{{{variables('light')}}}}}",
        )
    )


def chart_rules() -> str:
    """How the parts of a chart look, in the page and in a file of its own."""
    rules = (TEMPLATES / "chart.css").read_text(encoding="utf-8")
    colours = "".join(f".s{index}{{--c:var(--c{index})}}" for index in range(len(LIGHT)))
    return rules + colours + "".join(f".d{index} .line{{stroke-dasharray:{dash}}}" for index, dash in enumerate(DASHES) if dash)


def hue(style: int) -> int:
    """Which colour: style 0, exact attention's, has one of its own, which no other style has."""
    return 0 if style == 0 else 1 + (style - 1) % (len(LIGHT) - 1)


def pattern(style: int) -> int:
    """Which dashes and markers: others in each turn through the colours."""
    return (hue(style) + 3 * ((style - 1) // (len(LIGHT) - 1))) % len(SHAPES) if style else 0


def classes(style: int) -> str:
    return f"s{hue(style)} d{pattern(style)}"
