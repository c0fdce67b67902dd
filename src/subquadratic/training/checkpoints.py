"""Checkpoints: everything a run needs to go on as if it had never stopped, written whole or not at all.

`checkpoints/step-00000120` holds the model (as `save_pretrained` writes it, so it can be used by itself), the optimizer,
the learning-rate schedule, the random number generators, the moving average if there is one, and `progress.json`: what the
run counts besides. A checkpoint is written under another name and renamed when it is complete.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

PREFIX = "step-"
PROGRESS = "progress.json"
FORMAT = 1
NEEDED = (PROGRESS, "config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


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
        if final.exists():
            shutil.rmtree(final)
        staged.rename(final)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, oldest first."""
        if not self.path.is_dir():
            return []
        names = [path.name for path in self.path.iterdir() if path.is_dir() and path.name.startswith(PREFIX)]
        return sorted(int(name[len(PREFIX) :]) for name in names if name[len(PREFIX) :].isdigit())

    def retain(self, count: int) -> None:
        """Delete all but the newest `count`, and what an interrupted writer left."""
        for step in self.steps()[:-count]:
            shutil.rmtree(self.place(step), ignore_errors=True)
        self.sweep()

    def sweep(self) -> None:
        """Delete what an interrupted writer left."""
        if self.path.is_dir():
            for path in self.path.iterdir():
                if path.name.startswith(f".{PREFIX}"):
                    shutil.rmtree(path, ignore_errors=True)

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
            from .integrity import way_back

            raise CheckpointError(f"resume: the checkpoint {path} lacks {' and '.join(missing)}; {way_back(path)}")
        return path

    def whole(self) -> list[int]:
        """Steps of those that lack nothing."""
        return [step for step in self.steps() if all((self.place(step) / name).is_file() for name in NEEDED)]


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
