"""Going on with a run: which folder, with which options, from which checkpoint."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from .checkpoints import Checkpoints
from .options import TrainOptions
from .outputs import named

ALONE = "true"  # what `--resume` without a value stands for
LAST = "find_lr"  # the last option that every version writes
# What may differ when a run goes on; and when a finished one does, besides.
FREE = ("out", "overwrite", "resume", "report_to", "keep", "save_every", "quiet", "json", "dry_run", "find_lr", "threads")
FURTHER = ("max_steps", "budget", "learning_rate", "schedule", "warmup", "evaluations", "patience")


def resumed_folder(resume: str, out: str | None) -> Path:
    """The run that `--resume` means: the folder it names, else `out`, else the newest below `runs/`.

    Raises:
        ValueError: there is none, or it is no run.
    """
    for name, value in (("resume", resume), ("out", out)):
        if value is not None:
            named(name, value, "the folder of a run")
    if resume != ALONE:
        if out is not None and Path(out).expanduser().absolute() != Path(resume).expanduser().absolute():
            raise ValueError(f"resume: a run is resumed in its own folder; got --resume {resume} and --out {out}: give one of them")
        path = Path(resume).expanduser()
    elif out is not None:
        path = Path(out).expanduser()
    else:
        runs = [file.parent for file in Path("runs").glob("*/run.yaml")]
        if not runs:
            raise ValueError("resume: there is no run in runs/; name the folder of one, as --resume runs/performer-1")
        path = max(runs, key=lambda folder: (folder / "metrics.jsonl").stat().st_mtime if (folder / "metrics.jsonl").exists() else 0.0)
    if not path.is_dir():
        raise ValueError(f"resume: no such folder: {path}")
    if not (path / "run.yaml").is_file():
        raise ValueError(f"resume: {path} holds no run (run.yaml is missing); train one with subq train --out {path}")
    return path


def saved_options(folder: Path) -> TrainOptions:
    """The options that `run.yaml` holds, for going on in `folder`.

    Raises:
        ValueError: the file is damaged, or written by another version.
    """
    import yaml

    try:
        text = (folder / "run.yaml").read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        if not isinstance(values, dict) or LAST not in values or not text.endswith("\n"):
            raise TypeError("it is cut short" if isinstance(values, dict) else "it holds no options")
        return TrainOptions(**{**values, "out": str(folder), "resume": str(folder)})
    except (yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"resume: {folder / 'run.yaml'} is damaged and cannot be read ({error}); {_anew(folder)}") from error


def saved_facts(folder: Path) -> dict[str, Any]:
    """What `run.json` holds; nothing, where the run was stopped before it was written.

    Raises:
        ValueError: it is damaged, or missing though there is a checkpoint: nobody could say whether the data are the same.
    """
    file = folder / "run.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("corpus"), dict):
            raise ValueError("it does not say what the data are")
        return found
    except FileNotFoundError as error:
        if not Checkpoints(folder).steps():
            return {}
        raise ValueError(f"resume: {file} is missing, which says what the data are; {_anew(folder)}") from error
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"resume: {file} is damaged ({error}); {_anew(folder)}") from error


def _anew(folder: Path) -> str:
    """The way out where a run cannot go on."""
    steps = Checkpoints(folder).whole()
    place = Checkpoints(folder).place(steps[-1]) if steps else folder
    if not (place / "model.safetensors").is_file():
        return "put it back, or start a new run"
    return f"put it back, or start a new run from its model with --weights {shlex.quote(str(place))}"


def check_unchanged(saved: TrainOptions, given: TrainOptions, *, further: bool = False) -> None:
    """Whether a run may go on with what is given; both resolved. `further`: it is finished, and is to become longer.

    Raises:
        ValueError: an option differs; names the first and both values.
    """
    free = (*FREE, *FURTHER) if further else FREE
    for field in dataclasses.fields(TrainOptions):
        before, now = getattr(saved, field.name), getattr(given, field.name)
        if field.name not in free and before != now:
            name, before, now = innermost(field.name, before, now)
            end = " (once it is finished, it can be trained further)" if field.name in ("max_steps", "budget") else ""
            raise ValueError(
                f"resume: {name} was {before!r} and is now {now!r}; a run continues with the options it began with{end}: "
                "leave the option out, or start a new run (with --weights to start from this one's model)"
            )


def check_data(saved: dict[str, Any], now: dict[str, Any], what: str | None) -> None:
    """Whether the data are those of the run, by their digests.

    Raises:
        ValueError: they are not.
    """
    before = saved.get("corpus", {})
    for name, words in (("tokenizer_digest", "tokenizer"), ("digest", "data")):
        if name in before and before[name] != now.get(name):
            raise ValueError(
                f"resume: {words} has changed since the run began ({what or 'the standard library of this Python'}: digest "
                f"{str(before[name])[:12]} then, {str(now.get(name))[:12]} now); bring it back, or start a new run"
            )


def innermost(name: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """The first key that differs, where both are dicts."""
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in [*before, *now] if before.get(key) != now.get(key))
        return f"{name}.{key}", before.get(key), now.get(key)
    return name, before, now
