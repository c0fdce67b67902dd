"""Evaluation mode for a while, which leaves every part of a model in the mode it was found in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn


@dataclass
class _Hold:
    """How many `with` blocks want a module in evaluation mode, and whether it was in training mode before or meanwhile."""

    count: int = 0
    training: bool = False


_holds: dict[int, _Hold] = {}  # by id of a module that some block keeps alive
_lock = threading.RLock()  # reentrant: the garbage collector may close a dropped generator, which ends its block, at any time


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for `model` and all its parts within the `with` block.

    Afterwards each part has its own mode again: a frozen part in evaluation mode inside a model in training mode stays as it was.
    Blocks over the same modules may be nested, or overlap in any order, as in two generators that alternate or in two threads: a
    module goes back to training mode with the last block that wants it in evaluation mode, and one that is put into training mode
    within a block stays there after it.

    Flags are set, and `train()` is not called, since one of a foreign module may do more than that (merge an adapter, raise).
    """
    modules = list(model.modules())
    with _lock:
        holds = [_holds.setdefault(id(module), _Hold()) for module in modules]
        for module, hold in zip(modules, holds, strict=True):
            hold.count += 1
            hold.training |= module.training
        for module in modules:
            module.training = False
    try:
        yield
    finally:
        with _lock:
            for module, hold in zip(modules, holds, strict=True):
                hold.count -= 1
                if hold.count:
                    continue
                if _holds.get(id(module)) is hold:
                    del _holds[id(module)]
                if hold.training:
                    module.training = True
