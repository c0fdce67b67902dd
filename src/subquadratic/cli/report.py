"""`subq report`: the page of a comparison made anew from its `results.json`, and its verdict on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..training.outputs import named
from .options import parse
from .text_io import output_width, print_text

EXAMPLES = """\
examples:
  subq report comparisons/texts                        writes report.html, CSV and SVG files there, and prints the verdict
  subq report comparisons/texts --out public           writes them into another folder
  subq report comparisons/texts --against other/results.json   beside another machine, version or budget
"""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Make the page of a comparison anew from its results.json, and print its verdict. subq report FOLDER."""

    folder: str
    """Folder of subq compare, or a results.json."""
    against: str | None = None
    """Another comparison of the same data at the same length, to set beside: its folder, or its results.json."""
    out: str | None = None
    """Folder to write report.html, results.csv, speed.csv and charts/ into. Default: that of results.json."""


def run(argv: Sequence[str]) -> int:
    options = parse(ReportOptions, argv, verb="report", examples=EXAMPLES, positional="folder")
    if options.against is not None:
        named("against", options.against, "the folder of a comparison, or its results.json")
    from ..comparison.against import against
    from ..comparison.report.write import write_report
    from ..comparison.results import NAME, load
    from ..comparison.terminal import lines

    place = Path(options.folder).expanduser()
    comparison = load(place)
    other = None if options.against is None else against(comparison, load(Path(options.against).expanduser()))
    folder = Path(options.out).expanduser() if options.out is not None else place if place.is_dir() else place.parent
    source = place / NAME if place.is_dir() else place
    page, *_ = write_report(comparison, folder, against=other, source=source)
    print_text("\n".join([*lines(comparison, width=output_width(), against=other), "", f"page: {page}"]) + "\n")
    return 0
