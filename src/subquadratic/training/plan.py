"""A training run as it is decided before PyTorch is loaded: nobody should have to wait to hear that an option, a name or a folder is no
good."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from ..data.finding import find_sources, fitting, of_validation
from ..data.tokenizers.loading import find_tokenizer
from ..data.value_files import INTEGER, NUMBER
from ..data.ways import ROW_WAYS, WAYS
from ..heads.files import missing_files, read_config
from ..models.config import config_class
from .configuration import backbone_config, pair_configs
from .options import PATHS, TrainOptions
from .outputs import check_folder, check_outside
from .processes import is_first_process, process_count
from .resolving import resolve
from .resume import resumed_folder, saved_options
from .run_folder import RunFolder


@dataclass(frozen=True)
class Plan:
    """What a run does, with every choice made that data do not decide.

    `began` are the resolved options that a resumed run began with, None for a new run. `processes` train together; in `folder` the first of
    them alone writes, and where it has a number, it is what the first one finds free.
    """

    options: TrainOptions
    began: TrainOptions | None
    folder: RunFolder
    processes: int
    is_first: bool


def plan_run(options: TrainOptions, saved: TrainOptions | None = None) -> Plan:
    """Options resolved and looked at. What the data decide is told when they are read.

    Args:
        saved: what `saved_options` gave of the run to go on with, where it has been read; `TrainOptions(resume=folder)` alone takes
            everything else from there.

    Raises:
        ValueError: a run cannot be made of them.
    """
    if options.resume is not None:
        saved = saved_options(resumed_folder(options.resume, options.out)) if saved is None else saved
        if options == TrainOptions(resume=options.resume, out=options.out):
            options = saved
        options = dataclasses.replace(options, out=saved.out, resume=saved.resume)
    options, processes, is_first = resolve(options), process_count(), is_first_process()
    _check(options, processes)
    began = None if saved is None else resolve(saved)
    return Plan(options, began, _folder(options, writes=is_first), processes, is_first)


def _folder(options: TrainOptions, *, writes: bool) -> RunFolder:
    if options.resume is not None:
        folder = Path(options.resume)
        if writes:
            check_folder("resume", folder)
        return RunFolder(folder, writes=writes)
    if options.dry_run and options.out is not None:
        return RunFolder(Path(options.out), writes=False)
    name = f"find_lr-{options.model}" if options.find_lr else options.model
    chosen = RunFolder.choose(options.out, model=name, overwrite=options.overwrite, writes=writes)
    if not options.dry_run:
        _check_apart(options, chosen.path)
    return chosen


def _check(options: TrainOptions, processes: int) -> None:
    """Raises ValueError for what can be refused without a look at the run's folder."""
    if processes > 1:
        if options.budget is not None:
            raise ValueError("budget is for one process, since each has its own clock; give max_steps instead")
        if "-" in (options.data, options.validation_data):
            raise ValueError("data: standard input is for one process, since it can be read once; name a file")
    if options.context is not None or not config_class(options.model).fixed_length:  # else its length is that of the longest row
        (pair_configs if options.kind == "sequence_to_sequence" else backbone_config)(options)
    for name in options.trackers():
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"report_to: {name} is not installed: pip install {name}")
    find_tokenizer(options.tokenizer)
    check_sources(options)
    if options.weights is not None:
        _check_weights(Path(options.weights))


def check_sources(options: TrainOptions) -> None:
    """Raises ValueError for files that are not there, or cannot be read as asked for."""
    rows = options.kind != "language"
    # A folder may take long to walk, and a pipe is read once.
    data, validation = (None if name == "-" or (name and Path(name).is_dir()) else name for name in (options.data, options.validation_data))
    if data is not None and validation == options.validation_data:
        values = INTEGER if options.tokens is not None else NUMBER if options.bins is not None else None
        ways = {name: getattr(options, name) for name in (ROW_WAYS if rows else WAYS)}
        find_sources(data, validation, rows=rows, values=values, **ways)
    elif data is not None:
        fitting(data, rows=rows)
    elif validation is not None:
        with of_validation():
            fitting(validation, rows=rows)


def _check_weights(folder: Path) -> None:
    """Raises ValueError where there are none."""
    if missing := missing_files(folder):
        raise ValueError(f"weights: {folder} is not a saved model: it has no {' and no '.join(missing)}")
    read_config(folder)


def _check_apart(options: TrainOptions, folder: Path) -> None:
    """Raises ValueError where the run would write among what it reads, or `overwrite` would delete it."""
    for source in (options.data, options.validation_data):
        if source is not None and not os.path.isdir(os.path.expanduser(source)):  # in a folder, runs are passed over
            check_outside("out", folder, source)
    for name in PATHS:
        value = getattr(options, name)
        if value is None or not options.overwrite or not os.path.lexists(value):
            continue
        if Path(value).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name}: {value} is in the folder whose run --overwrite would delete; copy it, or name another --out")
