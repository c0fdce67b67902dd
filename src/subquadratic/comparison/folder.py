"""The folder of a comparison: results, page, log, and the folders of its runs."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..training.outputs import check_folder, check_outside, named
from ..training.replacing import holds_run, remove_run
from ..training.run_folder import first_free
from .options import CompareOptions
from .results import NAME, Comparison, load

LOG, RUNS, PLACE = "worker.log", "runs", "comparisons/compare"
WRITTEN = (NAME, "report.html", "results.csv", "speed.csv", LOG)
CHARTS = "charts"


def choose_folder(options: CompareOptions) -> Path:
    """The folder that `out` names, or the first free `comparisons/compare-N`. Nothing is written yet.

    Raises:
        ValueError: it cannot be written, or has something in it that `overwrite` may not replace.
    """
    path = first_free(PLACE) if options.out is None else named("out", options.out)
    check_folder("out", path)
    for source in (options.data, options.validation_data):
        check_outside("out", path, source)
    inside = sorted(path.iterdir()) if path.is_dir() else []
    if all(each.name == LOG for each in inside):  # nothing, or what is left of a comparison that was killed as it began
        return path
    if not (path / NAME).is_file():
        raise ValueError(f"out: {path} is not empty, and holds no comparison ({inside[0].name} is in it): name another folder")
    if not options.overwrite:
        where = shlex.quote(str(path))
        raise ValueError(
            f"out: {path} holds a comparison already: go on with it by subq compare --resume {where}, give --overwrite to replace it, "
            "or name another folder"
        )
    try:
        load(path)
    except ValueError as error:
        raise ValueError(f"out: {path} holds no comparison, and --overwrite would replace somebody else's files: {error}") from error
    return path


def remove_comparison(path: Path) -> None:
    """Drop what an earlier comparison wrote, and nothing else; its results last."""
    if not (path / NAME).is_file():
        return
    for trial in load(path).trials:
        run = path / trial.folder
        if trial.folder and holds_run(run):
            remove_run(run)
            _remove_empty(run)
    for chart in (path / CHARTS).glob("*.svg"):
        chart.unlink()
    for name in sorted(WRITTEN, key=lambda name: name == NAME):
        (path / name).unlink(missing_ok=True)
    _remove_empty(path / CHARTS)
    _remove_empty(path / RUNS)


def discard(path: Path) -> None:
    """Take away a comparison that was refused before anything was measured."""
    remove_comparison(path)
    _remove_empty(path)


def resumed(folder: str) -> tuple[Path, Comparison, CompareOptions]:
    """A comparison to go on with, and the options that it began with.

    Raises:
        ValueError: the folder holds none.
    """
    path = named("resume", folder, "the folder of a comparison")
    if not path.is_dir():
        raise ValueError(f"resume: no such folder: {path}")
    if not (path / NAME).is_file():
        raise ValueError(
            f"resume: there is no comparison in {path} (no {NAME}): name the folder of one, or begin one there with --out "
            f"{shlex.quote(str(path))}"
        )
    comparison = load(path)
    try:
        options = CompareOptions(**comparison.settings["options"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"resume: {path / NAME} was written by another version: {error}") from error
    return path, comparison, options


def run_folder(name: str, seed: int) -> str:
    """Of one run, below the comparison's."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    return f"{RUNS}/{plain}-{seed}"


def _remove_empty(path: Path) -> None:
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()
