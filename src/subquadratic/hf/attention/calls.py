"""Which modules have called our attention: for `check`, which must know that a model does not merely accept the name."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_listeners: list[dict[int, str]] = []


def note(module: nn.Module, name: str) -> None:
    """Tell whoever listens that a module calls the implementation ``name``."""
    if not torch.compiler.is_compiling():
        for calls in _listeners:
            calls[id(module)] = name


@contextmanager
def listening() -> Iterator[dict[int, str]]:
    """The modules that call while the context is open: their ids, and the implementation called."""
    calls: dict[int, str] = {}
    _listeners.append(calls)
    try:
        yield calls
    finally:
        _listeners.remove(calls)
