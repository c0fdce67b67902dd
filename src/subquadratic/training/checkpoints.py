"""Checkpoints: everything a run needs to go on as if it had never stopped, written whole or not at all.

`checkpoints/step-00000120` holds the model (as `save_pretrained` writes it, so it can be used by itself), the optimizer,
the learning-rate schedule, the random number generators, the moving average if there is one, and `progress.json`: what the
run counts besides. A checkpoint is written under another name and renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
from pathlib import Path

PREFIX = "step-"
PROGRESS = "progress.json"
AVERAGE = "average.safetensors"
FORMAT = 1
NEEDED = (PROGRESS, "config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
_NUMBER = r"(?:\d{8}|[1-9]\d{8,})"
NAME, STAGED = re.compile(f"{PREFIX}{_NUMBER}", re.ASCII), re.compile(rf"\.{PREFIX}{_NUMBER}", re.ASCII)
# All that is ever written into one, and what `replace_file` had not renamed yet. Whatever else is there, somebody put there.
_FILES = "|".join(map(re.escape, (*NEEDED, AVERAGE, "scaler.pt")))
OURS = re.compile(rf"{_FILES}|rng_state(?:_\d+)?\.pth|\.(?:{_FILES})\.[a-z0-9_]{{8}}", re.ASCII)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and what to do."""


class Checkpoints:
    """The checkpoints of the run in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "checkpoints"

    def place(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or will be."""
        return self.path / f"{PREFIX}{step:08d}"

    def staging(self, step: int) -> Path:
        """Where it is written; the same on every process, and no checkpoint yet for anyone who looks."""
        return self.path / f".{PREFIX}{step:08d}"

    def complete(self, step: int) -> None:
        """Give what was written its name; a checkpoint of the same step gives way."""
        final, staged = self.place(step), self.staging(step)
        for file in staged.iterdir():
            _flush(file)
        remove_checkpoint(final)
        if not final.exists():
            staged.rename(final)
            return
        # Somebody keeps files of his own there. The one without which there is no checkpoint comes last.
        for file in sorted(staged.iterdir(), key=lambda file: file.name == PROGRESS):
            file.replace(final / file.name)
        staged.rmdir()

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, oldest first. A folder in which there are only files of somebody's own is none."""
        if not self.path.is_dir():
            return []
        steps = [int(path.name[len(PREFIX) :]) for path in self.path.iterdir() if NAME.fullmatch(path.name) and _is_checkpoint(path)]
        return sorted(steps)

    def retain(self, count: int) -> None:
        """Delete all but the newest `count`, and what an interrupted writer left."""
        for step in self.steps()[:-count]:
            remove_checkpoint(self.place(step))
        self.sweep()

    def sweep(self) -> None:
        """Delete what an interrupted writer left."""
        if self.path.is_dir():
            for path in self.path.iterdir():
                if STAGED.fullmatch(path.name):
                    remove_checkpoint(path)

    def remove(self) -> None:
        """Delete every checkpoint; the folder too, unless something else is in it."""
        if self.path.is_dir():
            self.sweep()
            for step in self.steps():
                remove_checkpoint(self.place(step))
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def newest(self) -> Path | None:
        """The newest checkpoint; None if there is none yet.

        Raises:
            CheckpointError: it lacks a file.
        """
        steps = self.steps()
        if not steps:
            return None
        path = self.place(steps[-1])
        missing = [name for name in NEEDED if not (path / name).is_file()]
        if missing:
            raise CheckpointError(f"resume: the checkpoint {path} lacks {listed(missing)}; {way_back(path)}")
        return path

    def whole(self) -> list[int]:
        """Steps of those that lack nothing."""
        return [step for step in self.steps() if all((self.place(step) / name).is_file() for name in NEEDED)]


def way_back(checkpoint: Path) -> str:
    """What to do without a checkpoint."""
    run = checkpoint.parent.parent
    older = [step for step in Checkpoints(run).steps() if Checkpoints(run).place(step).name < checkpoint.name]
    if older:
        return f"delete {checkpoint} to continue from step {older[-1]:,}"
    where = shlex.quote(str(run))
    return f"there is no older one: start again with subq train --config {shlex.quote(str(run / 'run.yaml'))} --out {where} --overwrite"


def remove_checkpoint(path: Path) -> None:
    """Delete what training wrote into the folder of a checkpoint, whole or not; and the folder, unless something else is in it."""
    if path.is_symlink():
        return  # it leads to where somebody else keeps it
    inner = path.glob("checkpoint-[0-9]*") if STAGED.fullmatch(path.name) else ()  # the Trainer's own name
    for folder in (*inner, path):
        with contextlib.suppress(OSError):
            for file in [file for file in folder.iterdir() if OURS.fullmatch(file.name)]:
                file.unlink()
            folder.rmdir()  # refuses what is not empty


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])


def _is_checkpoint(path: Path) -> bool:
    """Whether a folder holds a checkpoint, or held one: it is empty then, or a file is missing."""
    if not path.is_dir():
        return False
    names = [file.name for file in path.iterdir()]
    return not names or any(OURS.fullmatch(name) for name in names)


def is_full_disk(error: BaseException) -> bool:
    """Whether a write failed for want of space; torch and safetensors say so in words only."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    text = str(error)
    return any(words in text for words in ("No space left", "file write failed", "Disk quota", "File too large", "unexpected pos"))


def _flush(file: Path) -> None:
    """On the disk before the rename, so that a crash of the machine cannot leave a name without its content."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
