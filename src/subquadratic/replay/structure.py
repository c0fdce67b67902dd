"""The tensors within tuples, lists and states: taken out, and others put in. What ``torch.utils._pytree`` does, several times as fast: who
replays a step of some hundred tensors in a millisecond has no half of one to spare."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..core.state import State


def flatten(value: Any) -> tuple[list[Tensor], tuple[Any, ...]]:
    """All tensors, and what else there is: structure, shapes, dtypes, devices, other values. The layout is hashable if these are."""
    tensors: list[Tensor] = []
    layout: list[Any] = []
    _visit(value, tensors, layout)
    return tensors, tuple(layout)


def _visit(value: Any, tensors: list[Tensor], layout: list[Any]) -> None:
    kind = type(value)
    if isinstance(value, Tensor):
        tensors.append(value)
        layout.append((value.shape, value.dtype, value.device))
    elif isinstance(value, tuple | list):
        layout.append((kind, len(value)))
        for item in value:
            _visit(item, tensors, layout)
    elif isinstance(value, State):
        layout.append(kind)
        for name in kind.__dataclass_fields__:
            _visit(getattr(value, name), tensors, layout)
    else:
        layout.append((kind, value))


def rebuild(value: Any, tensors: Iterator[Tensor]) -> Any:
    """``value`` with other tensors, in the order in which :func:`flatten` gives them."""
    kind = type(value)
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, tuple | list):
        items = [rebuild(item, tensors) for item in value]
        return kind(*items) if hasattr(kind, "_fields") else kind(items)
    if isinstance(value, State):
        return kind(*[rebuild(getattr(value, name), tensors) for name in kind.__dataclass_fields__])
    return value
