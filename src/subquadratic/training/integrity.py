"""Whether the files of a checkpoint and of its run are what was written: told before a run goes on, by name, with the way out.

`progress.json` lists size and CRC-32 of every other file of its checkpoint, and its own. Checkpoints of versions that did not are opened
instead: their archives have check sums of their own.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ..core.scalars import is_number, is_whole
from ..heads.files import CONFIG, WEIGHTS, read_config
from .checkpoints import FORMAT, PROGRESS, CheckpointError, way_back

KEYS = ("step", "run_seconds", "train_seconds", "elapsed", "aside", "sizes", "marks", "losses", "best", "stale", "averaged")
CHUNK = 1 << 22


def _count(value: Any) -> bool:
    return is_whole(value) and value >= 0


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


# What the values of progress.json are.
VALUES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("step", "stale", "averaged"), _count),
    **dict.fromkeys(("run_seconds", "elapsed", "aside"), is_number),
    **dict.fromkeys(("marks", "losses"), _numbers),
    "train_seconds": lambda value: value is None or is_number(value),
    "sizes": lambda value: isinstance(value, dict) and all(map(_count, value.values())),
    "best": lambda value: value is None or (isinstance(value, dict) and _count(value.get("step")) and is_number(value.get("loss"))),
    "files": lambda value: isinstance(value, dict) and all(_numbers(entry) and len(entry) == 2 for entry in value.values()),
}


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
    """Every file of a checkpoint, and of progress.json what its values are; `processes` are those that go on.

    Raises:
        CheckpointError: one is damaged or missing, or other processes wrote it.
    """
    for name, fits in VALUES.items():
        if name in progress and not fits(progress[name]):
            raise damaged(checkpoint / PROGRESS, f"{name} cannot be {json.dumps(progress[name])[:40]}")
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
        _check_state(state, json.loads(state.read_text(encoding="utf-8")), progress["step"])
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
            f"{'is 1' if processes == 1 else f'are {processes}'}: continue with as many"
        )


def _check_state(file: Path, content: Any, step: int) -> None:
    """Raises CheckpointError where the Trainer's own state is not one of `step`, or holds values of other kinds."""
    from transformers import TrainerState

    if not isinstance(content, dict) or "global_step" not in content:
        raise damaged(file, "it lacks global_step")
    if content["global_step"] != step:
        raise damaged(file, f"global_step is {json.dumps(content['global_step'])[:40]}, and the checkpoint of step {step}")
    hints = get_type_hints(TrainerState)
    for name, value in content.items():
        if name not in hints:
            raise damaged(file, f"it holds {name[:40]}, which is not the Trainer's")
        kinds = {get_origin(kind) or kind for kind in (get_args(hints[name]) if type(None) in get_args(hints[name]) else [hints[name]])}
        for alike in ({int, float}, {list, dict}):  # what transformers says of callbacks is not what it writes
            kinds |= alike if kinds & alike else set()
        if value is not None and type(value) not in kinds:
            raise damaged(file, f"{name} cannot be {json.dumps(value)[:40]}")


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
            raise CheckpointError(f"resume: {file} is damaged ({wrong}); put it back, or delete it to continue without it")
    if progress["best"] is not None:
        step = progress["best"]["step"]
        if not any((folder / name).exists() for name in (CONFIG, WEIGHTS)):
            notes.append(f"the best model so far, of step {step:,}, is gone: the next validation begins anew")
        elif (why := why_no_model(folder)) is not None:
            raise CheckpointError(
                f"resume: {why}, in which the best model so far was, of step {step:,}; put it back, or delete {folder / CONFIG} and "
                f"{folder / WEIGHTS} to continue without it"
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


def _bad_line(name: str, content: bytes) -> str | None:
    """The first line of metrics.jsonl that is none; the last may have been cut off by a full disk."""
    for number, line in enumerate(content.split(b"\n") if name.endswith(".jsonl") else []):
        try:
            values = json.loads(line) if line else {"step": 0}
            if not isinstance(values, dict) or not _count(values.get("step")):
                return f"line {number + 1} has no step"
            wrong = [name for name in ("loss", "bits", "validation_loss") if values.get(name) is not None and not is_number(values[name])]
            if wrong:
                return f"line {number + 1}: {wrong[0]} is no number"
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
