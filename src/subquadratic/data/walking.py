"""Files of folders, patterns and the standard library, with names that do not depend on where the folder is."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from .passed_over import BROKEN, LINK, RUN

RUN_FILES = {"run.yaml", "run.json"}  # by which `subq train` writes what it did
# Test suites are packaged apart by some distributions, so they would make the corpus differ between machines; `encodings`
# and `pydoc_data` are near-duplicate tables and one generated file: they would make validation look better than it is.
_STDLIB_SKIP_ANYWHERE = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib2to3"}
_STDLIB_SKIP_TOP = {"encodings", "pydoc_data"}


def walk(root: Path, left: list[tuple[str, str]]) -> Iterator[tuple[str, Path]]:
    """Every file below `root` that is not hidden, with its path below it; links that lead to no file, and runs, go to `left`."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"data: cannot read the folder {error.filename}: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        below = Path(folder).relative_to(root)
        if RUN_FILES.issubset(files) and Path(folder) != root:  # a run that was trained here, whose samples and page are no text to learn
            left.append((RUN, below.as_posix()))
            folders.clear()
            continue
        left.extend((LINK, (below / name).as_posix()) for name in folders if os.path.islink(os.path.join(folder, name)))
        for file in files:
            path = Path(folder) / file
            if file.startswith("."):
                continue
            if path.is_file():
                yield (below / file).as_posix(), path
            elif path.is_symlink():
                left.append((BROKEN, (below / file).as_posix()))


def matches(pattern: Path) -> Iterator[tuple[str, Path]]:
    """The files that a pattern matches, with their paths below the part of it that has no wildcards."""
    fixed = []
    for part in pattern.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    root = Path(*fixed)
    for match in glob.iglob(str(pattern), recursive=True):
        path = Path(match)
        if path.is_file():
            yield path.relative_to(root).as_posix(), path


def python_files(root: Path) -> list[tuple[str, Path]]:
    """The `.py` files of the standard library at `root`, with their paths below it."""
    found = []
    for name, path in walk(root, []) if root.is_dir() else ():
        parts = name.split("/")
        if path.suffix == ".py" and _STDLIB_SKIP_ANYWHERE.isdisjoint(parts) and parts[0] not in _STDLIB_SKIP_TOP:
            found.append((name, path))
    return found
