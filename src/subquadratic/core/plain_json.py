"""JSON as its standard has it, which knows no NaN and no infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(value: Any, **options: Any) -> str:
    """`json.dumps(value, **options)`, with null for every number that JSON has no word for."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **options)


def load_results(path: Path, build: Callable[[dict[str, Any]], T], *, program: str, format: int) -> T:
    """What `build` makes of the content of a results file.

    Args:
        path: of the file.
        build: from its JSON object, less "format"; what it misses there may raise KeyError, TypeError, AttributeError or ValueError.
        program: that writes such files, for the errors.
        format: that this version reads.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.pop("format")
        if found != format:
            raise ValueError(f"it has format {found}, and this version reads {format}")
        return build(content)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no results of {program}: {error}") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
