"""Write everything that is made of a comparison into its folder: the page, CSV and SVG files."""

from __future__ import annotations

import os
from pathlib import Path

from ...heads.files import replace_files
from ..against import Against
from ..results import Comparison
from .csv_files import results_csv, speed_csv
from .drawing import svg
from .page import GENERATOR, Material, material, render

PAGE, CHARTS = "report.html", "charts"
TABLES = ("results.csv", "speed.csv")


def write_report(comparison: Comparison, folder: Path, *, against: Against | None = None, source: Path | None = None) -> list[Path]:
    """Write `report.html`, `results.csv`, `speed.csv` and `charts/*.svg` into `folder`, each whole or not at all; charts of ours that the
    comparison no longer has are removed.

    Args:
        comparison: finished or not; what is missing is said.
        folder: made if it is not there.
        against: another comparison beside it.
        source: the results.json that the comparison is of. Default: that of `folder`.

    Returns:
        The files written, the page first.

    Raises:
        FileExistsError: the folder has files of these names that are not of a comparison.
    """
    _check_replaceable(folder)
    found = material(comparison, against, source="results.json" if source is None else relative(source, folder))
    (folder / CHARTS).mkdir(parents=True, exist_ok=True)
    texts = {
        folder / PAGE: render(found),
        folder / "results.csv": results_csv(comparison),
        folder / "speed.csv": speed_csv(comparison),
        **{folder / CHARTS / f"{chart.slug}.svg": svg(chart, alone=True) for chart in found.charts},
    }
    replace_files({path: lambda file, text=text: file.write_bytes(text.encode("utf-8", errors="replace")) for path, text in texts.items()})  # type: ignore[misc]
    _remove_stale(folder / CHARTS, found)
    return list(texts)


def relative(source: Path, folder: Path) -> str:
    """The file as it is named in the folder; whole where no way leads there."""
    try:
        return Path(os.path.relpath(source.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return str(source.resolve())


def _check_replaceable(folder: Path) -> None:
    """What would be replaced must have been written here: then the page says so."""
    present = [name for name in (PAGE, *TABLES, CHARTS) if (folder / name).exists()]
    page = folder / PAGE
    if present and not (page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")[:4000]):
        raise FileExistsError(
            f"{folder} has {', '.join(present)}, which subq report did not write: choose another folder, or move them away"
        )


def _remove_stale(folder: Path, found: Material) -> None:
    kept = {f"{chart.slug}.svg" for chart in found.charts}
    for path in folder.glob("*.svg"):
        ours = path.name.startswith(("pareto-", "curve-", "length-")) or path.name in ("learning-rates.svg", "positions.svg", "context.svg")
        if ours and path.name not in kept:
            path.unlink(missing_ok=True)
