"""Where results go, looked at before any work is done: a name that is one, a place that can be written, nothing of anybody else's there."""

from __future__ import annotations

import glob
import os
import tempfile
from pathlib import Path


def named(name: str, path: str, what: str = "a folder") -> Path:
    """The path that the option `name` gives, with `~` as the home folder.

    Raises:
        ValueError: it is empty (an unset variable of the shell), or no path at all.
    """
    if not path.strip():
        raise ValueError(f"{name}: the name is empty; name {what}")
    if "\0" in path:
        raise ValueError(f"{name}: {path!r} holds a NUL, which no name of a file can; name {what}")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~nobody
        raise ValueError(f"{name}: {path}: {error}; name {what}") from error


def check_folder(name: str, path: Path) -> None:
    """Whether files can be made in the folder `path`, and it too where it is missing. Nothing is left behind.

    Raises:
        ValueError: it is a file, or cannot be written.
    """
    try:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{name}: {path} is a file; name a folder")
        if path.is_symlink() and not path.exists():
            raise ValueError(f"{name}: {path} is a link to {os.readlink(path)}, which is missing; name a folder")
        there = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    except OSError as error:  # a name too long
        raise ValueError(f"{name}: cannot write {path}: {error.strerror or error}; name another folder") from error
    if not there.is_dir():
        raise ValueError(f"{name}: cannot make {path}: {there} is a file; name another folder")
    _probe(name, path, there, "folder")


def check_file(name: str, path: Path) -> None:
    """Whether the file `path` can be made or replaced. Nothing is left behind.

    Raises:
        ValueError: it is a folder or a device, or it cannot be written.
    """
    try:
        if path.is_dir():
            raise ValueError(f"{name}: {path} is a folder; name a file")
        if path.exists() and not path.is_file():
            raise ValueError(f"{name}: {path} is not a regular file, and would be replaced; name another")
        if not path.parent.is_dir():
            raise ValueError(f"{name}: there is no folder {path.parent}")
    except OSError as error:
        raise ValueError(f"{name}: cannot write {path}: {error.strerror or error}; name another file") from error
    _probe(name, path, path.parent, "file")


def check_outside(name: str, path: Path, data: str | None) -> None:
    """Whether what is written to `path` would be read as text the next time that `data`, a folder or a pattern, is.

    Raises:
        ValueError: it would.
    """
    if data is None or data in ("-", "stdlib") or not data.strip():
        return
    source, place = Path(data).expanduser(), path.expanduser().absolute()
    if glob.has_magic(data) and not source.exists():
        if "**" not in source.parts:
            return
        source = Path(*source.parts[: next(i for i, part in enumerate(source.parts) if glob.has_magic(part))])
    if not source.is_dir():
        return
    try:
        below = place.resolve().relative_to(source.resolve())
    except (ValueError, OSError):
        return
    if not any(part.startswith(".") for part in below.parts):  # hidden ones are not read
        raise ValueError(f"{name}: {path} is inside the data, {data}, of which every file is read as text; name a place outside it")


def _probe(name: str, path: Path, folder: Path, kind: str) -> None:
    """An unnamed file in `folder`: the answer of the system itself, where permissions do not tell (other file systems, the superuser)."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        longest = os.pathconf(folder, "PC_NAME_MAX") - 16 if hasattr(os, "pathconf") else 200  # a file is written under a longer name
    except OSError as error:
        why = "it is read-only" if isinstance(error, PermissionError) else error.strerror or str(error)
        raise ValueError(f"{name}: cannot write {path}: {folder}: {why}; name another {kind}") from error
    if len(os.fsencode(path.name)) > longest:
        raise ValueError(f"{name}: cannot write {path}: the name is too long; name another {kind}")
