"""What can be refused before PyTorch is loaded: options, names, folders, whose answer nobody should have to wait for."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from ..data.finding import find_sources, fitting, of_validation
from ..data.tokenizers.loading import find_tokenizer
from ..data.value_files import INTEGER, NUMBER
from ..data.ways import ROW_WAYS, WAYS
from ..heads.files import CONFIG, WEIGHTS, read_config
from .configuration import backbone_config, pair_configs
from .options import PATHS, TrainOptions
from .outputs import check_folder, check_outside, named
from .replacing import check_replaceable


def check_before(options: TrainOptions) -> None:
    """Look at resolved options. What the data decide is told when they are read.

    Raises:
        ValueError: a run cannot be made of them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if options.budget is not None:
            raise ValueError("budget is for one process, since each has its own clock; give max_steps instead")
        if "-" in (options.data, options.validation_data):
            raise ValueError("data: standard input is for one process, since it can be read once; name a file")
    if options.model != "linformer" or options.context is not None:  # else its length is that of the longest row
        (pair_configs if options.kind == "sequence_to_sequence" else backbone_config)(options)
    for name in options.trackers():
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"report_to: {name} is not installed: pip install {name}")
    find_tokenizer(options.tokenizer)
    _check_data(options)
    if options.weights is not None:
        _check_weights(Path(options.weights))
    if options.out is not None and options.resume is None and not options.dry_run:
        folder = named("out", options.out)
        check_folder("out", folder)
        check_replaceable(folder, overwrite=options.overwrite)
        check_apart(options, folder)


def _check_data(options: TrainOptions) -> None:
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
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"weights: {folder} is not a saved model: it has no {' and no '.join(missing)}")
    read_config(folder)


def check_apart(options: TrainOptions, folder: Path) -> None:
    """Raises ValueError where the run would write among what it reads, or `overwrite` would delete it."""
    if options.dry_run or options.resume is not None:
        return
    for source in (options.data, options.validation_data):
        if source is not None and not os.path.isdir(os.path.expanduser(source)):  # in a folder, runs are passed over
            check_outside("out", folder, source)
    for name in PATHS:
        value = getattr(options, name)
        if value is None or not options.overwrite or not os.path.lexists(value):
            continue
        if Path(value).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name}: {value} is in the folder whose run --overwrite would delete; copy it, or name another --out")
