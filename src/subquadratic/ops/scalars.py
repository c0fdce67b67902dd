"""Numbers as users have them: Python's own, NumPy's, and tensors of one number; kept as Python's own, as JSON and ranges need them."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
PLAIN = (int, float, bool, str, type(None))


def as_number(value: Any) -> Any:
    """A scalar of NumPy or PyTorch as an int or a float, and so the entries of a tuple or list; whatever else it is, as it was. True is no
    number, whoever's it is."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in (tuple, list):
        found = kind(map(as_number, value))
        return found if any(new is not old for new, old in zip(found, value, strict=True)) else value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        number = value.item()
        return number if type(number) in (int, float) else value
    return value


def is_number(value: Any) -> bool:
    """Whether it is an int or a float; a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether it is an int; a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def plain_scalars(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator of a constructor: scalars of NumPy and PyTorch among its arguments arrive as Python's own numbers."""

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        return function(*map(as_number, args), **{name: as_number(value) for name, value in options.items()})

    return call
