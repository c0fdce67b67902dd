"""Evaluation mode for a while, which leaves every part of a model in the mode it was found in."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from torch import nn


@dataclass
class _Hold:
    """How many `with` blocks want a module in evaluation mode, and whether it was in training mode before or meanwhile."""

    count: int = 0
    training: bool = False


_holds: dict[int, _Hold] = {}  # by id of a module that some block keeps alive
_lock = threading.RLock()  # reentrant: the garbage collector may close a dropped generator, which ends its block, at any time


class evaluating:
    """Evaluation mode for `model` and all its parts within a `with` block; one object serves for any number of blocks, one after another.

    Afterwards each part has its own mode again: a frozen part in evaluation mode inside a model in training mode stays as it was.
    Blocks over the same modules may be nested, or overlap in any order, as in two generators that alternate or in two threads: a
    module goes back to training mode with the last block that wants it in evaluation mode, and one that is put into training mode
    within a block stays there after it.

    Flags are set, and `train()` is not called, since one of a foreign module may do more than that (merge an adapter, raise).

    Generators enter a block for each step, and leave it before they yield: whoever asks for a token, or never asks for the next one,
    finds the model as it was. Where all is in evaluation mode already, which is then looked up, a block costs next to nothing.
    """

    def __init__(self, model: nn.Module):
        self._modules = list(model.modules())
        self._owns: list[dict[str, Any]] = [vars(module) for module in self._modules]
        self._plain = all("training" in own for own in self._owns)  # not so in modules of TorchScript, nor compiled ones
        self._open: list[list[_Hold] | None] = []

    def __enter__(self) -> None:
        # A block elsewhere may be why a module is in evaluation mode: only without any is there nothing to hold.
        if not _holds and self._plain and not any(map(dict.get, self._owns, repeat("training"))):
            self._open.append(None)
            return
        with _lock:
            holds = [_holds.setdefault(id(module), _Hold()) for module in self._modules]
            for module, hold in zip(self._modules, holds, strict=True):
                hold.count += 1
                hold.training |= module.training
            for module in self._modules:
                module.training = False
            self._open.append(holds)

    def __exit__(self, *_: object) -> None:
        holds = self._open.pop()
        if holds is None:
            return
        with _lock:
            for module, hold in zip(self._modules, holds, strict=True):
                hold.count -= 1
                if hold.count:
                    continue
                if _holds.get(id(module)) is hold:
                    del _holds[id(module)]
                if hold.training:
                    module.training = True
