"""Whether the files of a checkpoint and of its run are what was written: told before a run goes on, by name, with the way out.

`progress.json` lists size and CRC-32 of every other file of its checkpoint, and its own. Checkpoints of versions that did not are opened
instead: their archives have check sums of their own.
"""

from __future__ import annotations

import json
import shlex
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ..models.files import CONFIG, WEIGHTS, read_config
from .checkpoints import FORMAT, PROGRESS, CheckpointError, Checkpoints

KEYS = ("step", "run_seconds", "train_seconds", "elapsed", "aside", "sizes", "marks", "losses", "best", "stale", "averaged")
CHUNK = 1 << 22


def write_progress(checkpoint: Path, progress: dict[str, Any]) -> None:
    """Write `progress.json`, after everything else in the folder."""
    files = {file.name: _sum(file) for file in sorted(checkpoint.iterdir()) if file.name != PROGRESS}
    content = {"format": FORMAT, **progress, "files": files}
    (checkpoint / PROGRESS).write_text(json.dumps({**content, "crc32": _own_sum(content)}), encoding="utf-8")


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What `progress.json` holds.

    Raises:
        CheckpointError: it is damaged, or of another version.
    """
    file = checkpoint / PROGRESS
    try:
        progress = json.loads(file.read_text(encoding="utf-8"))
        found = progress["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(file, _reason(error)) from error
    if found != FORMAT:
        raise CheckpointError(f"resume: the checkpoint {checkpoint} has format {found}; this version of subquadratic reads {FORMAT}")
    missing = [name for name in KEYS if name not in progress]
    if missing:
        raise damaged(file, f"it lacks {missing[0]}")
    if "crc32" in progress and progress.pop("crc32") != _own_sum(progress):
        raise damaged(file, "it is not what was written")
    return progress


def check_files(checkpoint: Path, progress: dict[str, Any], *, processes: int = 1) -> None:
    """Every file of a checkpoint but progress.json; `processes` are those that go on.

    Raises:
        CheckpointError: one is damaged or missing, or other processes wrote it.
    """
    listed = progress.get("files")
    generators = "rng_state.pth" if processes == 1 else f"rng_state_{processes - 1}.pth"
    for name, (size, crc) in (listed or {}).items():
        file = checkpoint / name
        if not file.is_file():
            raise damaged(file, "it is missing")
        if (found := file.stat().st_size) != size:
            raise damaged(file, f"it has {found:,} bytes, and {size:,} were written")
        if _sum(file) != [size, crc]:
            raise damaged(file, "it is not what was written")
    for file in [] if listed else [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]:
        try:
            with zipfile.ZipFile(file) as archive:
                if (part := archive.testzip()) is not None:
                    raise damaged(file, f"in {part}")
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise damaged(file, _reason(error)) from error
    state = checkpoint / "trainer_state.json"
    try:
        if "global_step" not in json.loads(state.read_text(encoding="utf-8")):
            raise damaged(state, "it lacks global_step")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise damaged(state, _reason(error)) from error
    written = len(list(checkpoint.glob("rng_state*.pth")))
    if written == 0:
        raise damaged(checkpoint / generators, "it is missing")
    if written != processes:
        raise CheckpointError(
            f"resume: {checkpoint} was written by {written} process{'es' if written > 1 else ''}, and now there "
            f"{'is 1' if processes == 1 else f'are {processes}'}: go on with as many"
        )


def check_run(folder: Path, progress: dict[str, Any]) -> list[str]:
    """The files of a run that its checkpoint counts on: its logs, and its best model. What is said of those that were deleted.

    Raises:
        CheckpointError: one is damaged; the message says what to do.
    """
    notes = []
    for name, size in progress["sizes"].items():
        file = folder / name
        if not file.exists():
            if size:
                notes.append(f"{name} is gone: what comes now begins a new one")
            continue
        with file.open("rb") as handle:
            content = handle.read(size)
        wrong = f"it has {len(content):,} bytes, and had {size:,} at the checkpoint" if len(content) < size else _bad_line(name, content)
        if wrong:
            raise CheckpointError(f"resume: {file} is damaged ({wrong}); put it back, or delete it to go on without what it says")
    if progress["best"] is not None:
        step = progress["best"]["step"]
        if not any((folder / name).exists() for name in (CONFIG, WEIGHTS)):
            notes.append(f"the best model so far, of step {step:,}, is gone: the next validation begins anew")
        elif (why := why_no_model(folder)) is not None:
            raise CheckpointError(
                f"resume: {why}, in which the best model so far was, of step {step:,}; put it back, or delete {folder / CONFIG} and "
                f"{folder / WEIGHTS} to go on without it"
            )
    return notes


def why_no_model(folder: Path) -> str | None:
    """Why there is no whole model in a folder; None if there is. The header of its weights is read, and says how long they are."""
    from safetensors import SafetensorError, safe_open

    try:
        read_config(folder)
        with safe_open(folder / WEIGHTS, framework="pt"):
            return None
    except SafetensorError as error:
        return f"{folder / WEIGHTS} is damaged ({error})"
    except FileNotFoundError:
        missing = next(name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file())
        return f"{folder / missing} is missing"
    except (OSError, ValueError) as error:
        return str(error)


def damaged(file: Path, why: str) -> CheckpointError:
    """The error of a file of a checkpoint, with the way out."""
    return CheckpointError(f"resume: {file} is damaged ({why}); {way_back(file.parent)}")


def way_back(checkpoint: Path) -> str:
    """What to do without a checkpoint."""
    run = checkpoint.parent.parent
    older = [step for step in Checkpoints(run).steps() if Checkpoints(run).place(step).name < checkpoint.name]
    if older:
        return f"delete {checkpoint} to go on from step {older[-1]:,}"
    where = shlex.quote(str(run))
    return f"there is no older one: start again with subq train --config {shlex.quote(str(run / 'run.yaml'))} --out {where} --overwrite"


def _bad_line(name: str, content: bytes) -> str | None:
    """The first line of metrics.jsonl that is none; the last may have been cut off by a full disk."""
    for number, line in enumerate(content.split(b"\n") if name.endswith(".jsonl") else []):
        try:
            if line and "step" not in json.loads(line):
                return f"line {number + 1} has no step"
        except (ValueError, TypeError, RecursionError):
            return f"line {number + 1} is no JSON"
    return None


def _sum(file: Path) -> list[int]:
    size = crc = 0
    with file.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _own_sum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]}"
    return " ".join(str(error).split()) or type(error).__name__
