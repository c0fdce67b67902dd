"""Options completed by what the model and each other say, and checked."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from .data_options import absolute_name, check_data_options
from .defaults import DEFAULTS, ModelDefaults
from .numbers import check_numbers, require_value
from .options import PATHS, TrainOptions, parse_duration
from .outputs import named

DEFAULT_BUDGET = "5m"
MOST = 2**31 - 1  # of anything in a model's configuration
MOST_EVALUATIONS = 10_000  # their places in the run are in every checkpoint


def resolve(options: TrainOptions) -> TrainOptions:
    """The same run with every choice made; resolved options stay as they are.

    Raises:
        ValueError: an unknown model, options that exclude each other, or a value out of range.
    """
    from ..data.task_names import ALIASES

    if options.task in ALIASES:
        return resolve(dataclasses.replace(options, task=ALIASES[options.task]))
    if options.model not in DEFAULTS:  # it may have been added to models/ since
        from ..core.errors import require_choice
        from ..models.config import model_types

        require_choice("model", options.model, model_types())
    _check_names(options)
    check_data_options(options)
    defaults = DEFAULTS.get(options.model, ModelDefaults())
    rows = options.kind != "language" and options.task is None
    paths: dict[str, Any] = {name: absolute_name(getattr(options, name)) for name in PATHS}
    chosen = dataclasses.replace(
        options,
        **paths,
        causal=(options.kind != "classification" or defaults.causal_only) if options.causal is None else options.causal,
        dim=_first(options.dim, defaults.dim),
        depth=_first(options.depth, defaults.depth),
        heads=_first(options.heads, defaults.heads),
        context=options.context if rows else _first(options.context, defaults.context),
        fields=defaults.fields_beside(options.fields, _first(options.heads, defaults.heads)),
        budget=DEFAULT_BUDGET if options.budget is None and options.max_steps is None else options.budget,
        batch_size=_first(options.batch_size, defaults.batch_size if options.kind == "language" else 16),
        learning_rate=_first(options.learning_rate, defaults.learning_rate if options.kind == "language" else 1e-3),
    )
    _check(chosen)
    return chosen


def _check_names(options: TrainOptions) -> None:
    for name in (*PATHS, "out", "resume"):
        if (path := getattr(options, name)) is not None:
            named(name, str(path))


def _check(options: TrainOptions) -> None:
    for each in dataclasses.fields(options):
        check_numbers(each.name, getattr(options, each.name))
    for name, value in options.fields.items():
        require_value(not isinstance(value, int) or abs(value) <= MOST, f"fields.{name}", f"at most {MOST:,}", value)
    for name in ("dim", "depth", "heads", "batch_size", "accumulation", "keep"):
        require_value(getattr(options, name) >= 1, name, "at least 1", getattr(options, name))
    for name in ("max_steps", "threads", "validation_tokens", "patience", "save_every"):
        value = getattr(options, name)
        require_value(value is None or value >= 1, name, "at least 1", value)
    assert options.learning_rate is not None
    require_value(options.context is None or options.context >= 2, "context", "at least 2", options.context)
    require_value(0 <= options.evaluations <= MOST_EVALUATIONS, "evaluations", f"from 0 to {MOST_EVALUATIONS:,}", options.evaluations)
    require_value(0 < options.learning_rate < math.inf, "learning_rate", "above 0", options.learning_rate)
    require_value(0 <= options.warmup < 1, "warmup", "from 0 up to 1 (a share of the run)", options.warmup)
    require_value(0 <= options.weight_decay < math.inf, "weight_decay", "at least 0", options.weight_decay)
    require_value(0 <= options.clip < math.inf, "clip", "at least 0", options.clip)
    require_value(options.ema is None or 0 < options.ema < 1, "ema", "above 0 and below 1", options.ema)
    require_value(0 <= options.seed < 2**32, "seed", "from 0 to 2**32 - 1", options.seed)
    for name, allowed in (("precision", ("auto", "float32", "bfloat16")), ("schedule", ("linear", "cosine", "constant"))):
        require_value(getattr(options, name) in allowed, name, f"one of {', '.join(allowed)}", getattr(options, name))
    if options.quiet and options.json:
        raise ValueError("quiet prints nothing and json one object a line: leave out one of the two")
    options.trackers()
    if options.budget is not None:
        parse_duration(options.budget)


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value
