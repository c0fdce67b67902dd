"""What `--overwrite` may remove: an earlier run, and of its folder only what a run makes."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

from .checkpoints import Checkpoints

# Names that a run writes to. Trackers name their files in `tracking` by the project, or by time, machine and process.
MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "values.json")
FILES = (*MODEL, "run.yaml", "run.json", "metrics.jsonl", "samples.txt", "loss.svg", "README.md", "README-run.md")
FOLDERS = ("checkpoints", "tracking")
TRACKED = re.compile(
    r"events\.out\.tfevents\.\d+\..+\.\d+\.\d+|subquadratic(?:_system)?\.(?:db|db-wal|db-shm|db-journal|lock|parquet)", re.ASCII
)
PAGE = "trained with subquadratic. The run "  # on the page of every run


def check_replaceable(path: Path, *, overwrite: bool) -> None:
    """Whether a run may be written to `path`.

    Raises:
        ValueError: there is something in it, and `overwrite` is false, or something would be lost that no run made.
    """
    try:
        inside = sorted(path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise ValueError(f"out: cannot read {path}: {error.strerror or error}; name another folder") from error
    if not inside:
        return
    run = holds_run(path)
    if not overwrite:
        more = ", or --resume to continue the run in it" if run else ""
        way_out = f", or give --overwrite to replace the run in it{more}" if run else "; --overwrite replaces a run, and it holds none"
        raise ValueError(f"out: {path} is not empty; name another folder{way_out}")
    taken = [file.name for file in inside if file.name in (*FILES, *FOLDERS)]
    if taken and not run:
        raise ValueError(
            f"out: {path} holds no run (no run.yaml that subq train wrote), so --overwrite would replace somebody else's "
            f"{', '.join(taken)}; name another folder"
        )
    foreign = [name for name in taken if not _written_by_a_run(path / name)]
    if foreign:
        raise ValueError(f"out: {path}/{foreign[0]} was not made by the run in {path}, and would be lost; move it, or name another folder")


def holds_run(path: Path) -> bool:
    """Whether there is a run.yaml as a run writes it: every option, or all that an earlier version had."""
    from .options import TrainOptions

    values = _yaml(path / "run.yaml")
    known = {field.name for field in dataclasses.fields(TrainOptions)}
    always = {"model", "data", "max_steps", "seed", "learning_rate"}
    return isinstance(values, dict) and always <= set(values) and len(known & set(values)) > 20


def remove_run(path: Path) -> None:
    """Drop what an earlier run left in the folder, and nothing else; run.yaml last, by which the rest is known to be a run's."""
    Checkpoints(path).remove()
    _remove_tracked(path / "tracking")
    for name in sorted(FILES, key=lambda name: name == "run.yaml"):
        (path / name).unlink(missing_ok=True)


def _written_by_a_run(file: Path) -> bool:
    """Whether a name that a run writes to is a file or folder as a run writes it."""
    if file.name in FOLDERS:
        return file.is_dir() and not file.is_symlink()
    if not file.is_file():
        return False
    return not file.name.startswith("README") or is_page(file)


def is_page(file: Path) -> bool:
    """Whether a Markdown file is the page of a run."""
    return file.is_file() and PAGE in file.read_text(encoding="utf-8", errors="replace")


def _remove_tracked(folder: Path) -> None:
    """The files of trackers in a folder and below it, and folders in which there was nothing else."""
    if folder.is_symlink() or not folder.is_dir():
        return
    inside = list(folder.iterdir())
    for path in inside:
        if TRACKED.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            _remove_tracked(path)
    if inside:  # an empty one is the user's
        with contextlib.suppress(OSError):
            folder.rmdir()  # refuses what is not empty


def _yaml(file: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
