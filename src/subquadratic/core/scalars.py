"""Numbers and flags as users have them: Python's own, NumPy's, and tensors of one; kept as Python's own, as JSON and ranges need them."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
PLAIN = (int, float, bool, str, type(None))
FLAGS = (True, False, None)


def as_number(value: Any) -> Any:
    """A scalar of NumPy or PyTorch as an int, a float or a bool, and so the entries of a tuple or list; whatever else it is, as it was.
    True is no number, whoever's it is, but a flag."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in (tuple, list):
        found = kind(map(as_number, value))
        return found if any(new is not old for new, old in zip(found, value, strict=True)) else value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        number = value.item()
        return number if type(number) in (int, float, bool) else value
    return value


def as_numbers(value: Any) -> Any:
    """A list, or an array or tensor of one axis, as a tuple of Python's own numbers; whatever else it is, as it was."""
    if isinstance(value, list | tuple) or (len(getattr(value, "shape", ())) == 1 and hasattr(value, "tolist")):
        return tuple(map(as_number, value))
    return value


def require_flags(**values: Any) -> None:
    """Each keyword must be True or False (or 1, 0 or None, as Python has them), so that what it means is beyond doubt: "no" is true, and
    an array of one False is not."""
    for name, value in values.items():
        if type(value) not in PLAIN or value not in FLAGS:
            raise ValueError(f"{name} must be True or False, got {value!r}")


def is_number(value: Any) -> bool:
    """Whether it is an int or a float; a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether it is an int; a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def plain_scalars(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator of a constructor: scalars of NumPy and PyTorch among its arguments arrive as Python's own numbers, and flags are flags."""
    parameters = inspect.signature(function).parameters
    flags = {name for name, parameter in parameters.items() if parameter.annotation in (bool, "bool")}

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        plain = {name: as_number(value) for name, value in options.items()}
        in_order = [as_number(value) for value in args]
        named = dict(zip(parameters, in_order, strict=False)) | plain
        require_flags(**{name: value for name, value in named.items() if name in flags})
        return function(*in_order, **plain)

    return call
