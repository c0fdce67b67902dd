"""Values of options that are refused: numbers that none takes, whatever it means, and what one does not take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LARGEST = 2**63 - 1  # what counters of PyTorch and NumPy hold


def check_numbers(name: str, value: Any) -> None:
    """A value, and all in it where it has parts.

    Raises:
        ValueError: NaN, an infinite number, or an integer beyond 64 bits; the message begins with `name`.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_numbers(f"{name}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_numbers(name, inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a number other than NaN and infinity, got {value}")
    elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{name} must be {'at most 2**63 - 1' if value > 0 else 'at least -(2**63 - 1)'}, got {_short(value)}")


def require_value(condition: bool, name: str, allowed: str, value: object) -> None:
    """Raise ValueError for the value of the option `name` unless `condition`."""
    if not condition:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def _short(value: int) -> str:
    """Python refuses to spell a number of thousands of digits."""
    return str(value) if value.bit_length() <= 400 else f"a number of {round(value.bit_length() * math.log10(2)):,} digits"
