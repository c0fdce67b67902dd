"""One token through a model as a CUDA graph or a recording, shared by all that decodes with the model.

Axes: B rows, V vocabulary.
"""

import contextlib
import operator
import weakref
from collections import OrderedDict
from dataclasses import is_dataclass
from itertools import repeat
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..ops.backend import PLAIN
from ..ops.cuda_graph import Replayed
from ..ops.recording import Program
from ..ops.state import State
from ..ops.structure import flatten

HOUSE = __package__.partition(".")[0]
HEADS = f"{HOUSE}.models."
PROGRAMS = 8  # recordings of one model
PLAIN_VALUES = (bool, int, float, str, tuple, type(None))
PARTS = (HEADS, f"{HOUSE}.attention.", f"{HOUSE}.layers.", "torch.nn.")


class OneToken:
    """A model's ``extend`` by one token, replayed where the state keeps its shapes: a cache that grows is never captured.

    For models whose parts are all ours or PyTorch's, in eval mode, without hooks. Before every step it is asked whether each part and each
    weight is the one that it was, in less time than a layer takes; weights are read where they lie, so they may change in place. What goes
    unseen until the next text: a plain attribute of a module that is set by hand, and a weight that gets another shape in the same storage.
    """

    def __init__(self, model: nn.Module):
        weak = weakref.ref(model)  # else what is kept for the model would keep the model

        def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
            logits, after = cast(Any, weak()).extend(tokens, state, last_only=True)
            return logits[:, -1], after

        self._replayed = Replayed(step, repeats=lambda before, after: flatten(before[1])[1] == flatten(after[1])[1])
        # Who stands where (parts, parameters, buffers), where weights lie, and each part's attributes and hooks; lists that C goes through.
        self._held: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._whats: list[Any] = []
        self._weights: list[Tensor] = []
        self._addresses: list[int] = []
        self._owns: list[dict[str, Any]] = []
        self._hooks: list[dict[int, Any]] = []
        self._seen: tuple[Any, ...] | None = None
        self._look_again = False
        self.key = object()
        """Another one when the model is another."""
        self.programs: OrderedDict[Any, Program | None] = OrderedDict()
        """Recordings by what they hold for, None where none could be made; see `.steps`."""
        self.limit: int | None = None
        """The most tokens that every part of the model can count."""

    @classmethod
    def of(cls, model: Any) -> "OneToken | None":
        """The model's own, looked at afresh; None for a model that is not one of ours."""
        if not isinstance(model, nn.Module) or not type(model).__module__.startswith(HEADS):
            return None
        own = _of_models.get(model)
        if own is None:
            own = _of_models[model] = cls(model)
        own._look_again = True
        return own

    def applies(self, model: nn.Module, tokens: Tensor) -> bool:
        """Whether a step may be replayed as a CUDA graph."""
        return self._replayed.applies(tokens) and self.is_plain(model)

    def keep(self, layout: Any, program: Program | None) -> None:
        """Keep a recording, or that there is none, instead of the oldest one if there are many."""
        self.programs[layout] = program
        if len(self.programs) > PROGRAMS:
            with contextlib.suppress(KeyError):  # another thread has emptied it meanwhile
                self.programs.popitem(last=False)

    def __call__(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, 1) and the state before -> logits (B, V) and the state after."""
        return self._replayed(tokens, state, key=self.key)

    def is_plain(self, model: nn.Module) -> bool:
        """Whether the model does what its parts' classes say and nothing besides; with another key if it is not what it was."""
        if self._look_again or self._seen is None or not self._is_same():
            self._look_again = False
            seen = self._look(model)
            if seen is not None and seen != self._seen:
                self.key = object()
                self.programs.clear()
            self._seen = seen
        return self._seen is not None and not self._is_disturbed()

    def _is_same(self) -> bool:
        return (
            all(map(operator.is_, map(dict.get, self._held, self._names), self._whats))
            and list(map(Tensor.data_ptr, self._weights)) == self._addresses
        )

    def _is_disturbed(self) -> bool:
        """Whether something besides the parts' own forward would run, or another one."""
        return (
            any(map(dict.get, self._owns, repeat("training")))
            or any(self._hooks)
            or any(map(dict.__contains__, self._owns, repeat("forward")))
            or _has_any_global_hook()
        )

    def _look(self, model: nn.Module) -> tuple[Any, ...] | None:
        """What decides where and how the model reads; None if some part is not known here."""
        everywhere: list[tuple[dict[str, Any], str, Any]] = []
        weights: list[Tensor] = []
        owns: list[dict[str, Any]] = []
        seen: list[Any] = []
        limits: list[int] = []
        waiting: list[nn.Module] = [model]
        while waiting:
            module = waiting.pop()
            own = module.__dict__
            owns.append(own)
            for held in (own["_parameters"], own["_buffers"], own["_modules"]):
                everywhere += [(held, name, what) for name, what in held.items()]
            tensors = [tensor for held in (own["_parameters"], own["_buffers"]) for tensor in held.values() if tensor is not None]
            if not type(module).__module__.startswith(PARTS) or any(type(tensor) not in PLAIN for tensor in tensors):
                return None
            weights += tensors
            plain = [(name, value if _compares(value) else id(value)) for name, value in own.items() if name[0] != "_"]
            lying = [(tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors]
            seen.append((type(module), plain, lying))
            if own.get("max_length") is not None:
                limits.append(own["max_length"])
            waiting.extend(child for child in own["_modules"].values() if child is not None)
        self.limit = min(limits, default=None)
        self._held, self._names, self._whats = (list(column) for column in zip(*everywhere, strict=True))
        self._weights, self._addresses = weights, [tensor.data_ptr() for tensor in weights]
        self._owns, self._hooks = owns, [own[name] for own in owns for name in ("_forward_hooks", "_forward_pre_hooks")]
        return tuple(seen)


def _compares(value: Any) -> bool:
    """Whether a plain attribute says by its value what it was: numbers, texts, configurations."""
    return isinstance(value, PLAIN_VALUES) or (is_dataclass(value) and not isinstance(value, State))


_of_models: weakref.WeakKeyDictionary[nn.Module, OneToken] = weakref.WeakKeyDictionary()
