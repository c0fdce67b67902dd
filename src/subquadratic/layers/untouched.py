"""Whether calling a module would do what its class says and nothing besides.

Fast paths read the weights of modules without calling them, several in one operation. They may do that only where nobody could tell:
every such decision in the package is made here.
"""

import operator
from collections.abc import Iterable
from itertools import repeat
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

HOUSE = __package__.partition(".")[0] + "."
HELD = ("_parameters", "_buffers", "_modules")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_untouched(module: nn.Module | None, *kinds: type[nn.Module]) -> bool:
    """Whether this is a module of one of these very classes, with no other ``forward`` and no hooks, and no hooks for all modules.

    A subclass, a parametrised module (which has a class of its own), an adapter or a sharded module is another class.
    """
    return module is not None and type(module) in kinds and not is_disturbed(module.__dict__) and not _has_any_global_hook()


def is_disturbed(own: dict[str, Any]) -> bool:
    """Whether a module with these attributes runs another ``forward``, or hooks around it."""
    return bool(
        "forward" in own  # written out: asked some thirty times for each token
        or own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
    )


def untouched_parts(root: nn.Module, *foreign: type[nn.Module]) -> list[nn.Module] | None:
    """All modules of a model; None if one of them is neither of a class in this package nor of one in ``foreign``, or is not untouched."""
    if _has_any_global_hook():
        return None
    parts: list[nn.Module] = []
    waiting: list[nn.Module] = [root]
    while waiting:
        module = waiting.pop()
        kind, own = type(module), module.__dict__
        if not (kind in foreign or kind.__module__.startswith(HOUSE)) or is_disturbed(own):
            return None
        parts.append(module)
        waiting += _children(own)
    return parts


def _children(own: dict[str, Any]) -> Iterable[nn.Module]:
    return (child for child in own["_modules"].values() if child is not None)


class Watched:
    """The modules of a model in eval mode, looked at once; whether they are as they were is then known in less time than a layer takes.

    Holds the modules and their tensors. What goes unseen: a plain attribute that is set by hand, and a tensor that gets another shape in
    the same storage.
    """

    def __init__(self, parts: list[nn.Module]):
        owns = [part.__dict__ for part in parts]
        held = [(own[kind], name, what) for own in owns for kind in HELD for name, what in own[kind].items()]
        # Who stands where, where tensors lie, and each part's attributes and hooks; lists that C goes through.
        self._holders, self._names, self._whats = ([entry[column] for entry in held] for column in range(3))
        self.tensors = [what for *_, what in held if isinstance(what, Tensor)]
        self._addresses = [tensor.data_ptr() for tensor in self.tensors]
        self._owns, self._hooks = owns, [own[name] for own in owns for name in HOOKS]

    def is_same(self) -> bool:
        """Whether each part and each tensor is the one that it was, and lies where it lay."""
        return (
            all(map(operator.is_, map(dict.get, self._holders, self._names), self._whats))
            and list(map(Tensor.data_ptr, self.tensors)) == self._addresses
        )

    def is_untouched(self) -> bool:
        """Whether calling the model would do nothing but what the classes of its parts say, in eval mode."""
        return not (
            any(map(dict.get, self._owns, repeat("training")))
            or any(self._hooks)
            or any(map(dict.__contains__, self._owns, repeat("forward")))
            or _has_any_global_hook()
        )
