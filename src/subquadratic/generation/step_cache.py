"""What is kept of a model from one text to the next: CUDA graphs and recordings of a step of one token, while the model is what it was.

Axes: B rows, V vocabulary.
"""

import contextlib
import weakref
from collections import OrderedDict
from dataclasses import is_dataclass
from typing import Any, cast

from torch import Tensor, nn

from ..core.backend import PLAIN
from ..core.state import State
from ..layers.untouched import Watched, untouched_parts
from ..replay.cuda_graph import Replayed
from ..replay.recorded_calls import Recording
from ..replay.structure import flatten

HEADS = __package__.partition(".")[0] + ".heads."
FOREIGN = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.Dropout, nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.GELU, nn.Identity)
RECORDINGS = 8  # of one model
PLAIN_VALUES = (bool, int, float, str, tuple, type(None))


class Kept:
    """What is kept for a model from one text to the next: graphs and recordings, none of which holds its parameters."""

    def __init__(self, model: nn.Module):
        weak = weakref.ref(model)  # else what is kept for the model would keep the model

        def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
            logits, after = cast(Any, weak()).extend(tokens, state, last_only=True)
            return logits[:, -1], after

        self.replayed = Replayed(step, repeats=lambda before, after: flatten(before[1])[1] == flatten(after[1])[1])
        self.seen: tuple[Any, ...] | None = None
        self.key = object()
        """Another one when the model is another."""
        self.recordings: OrderedDict[Any, Recording | None] = OrderedDict()
        """By what they hold for, None where none could be made; see `.steps`."""

    def keep(self, layout: Any, recording: Recording | None) -> None:
        """Keep a recording, or that there is none, instead of the oldest one if there are many."""
        self.recordings[layout] = recording
        if len(self.recordings) > RECORDINGS:
            with contextlib.suppress(KeyError):  # another thread has emptied it meanwhile
                self.recordings.popitem(last=False)

    def is_now(self, seen: tuple[Any, ...]) -> None:
        """The model is as ``seen``; what was kept of another one goes."""
        if seen != self.seen:
            self.seen, self.key = seen, object()
            self.recordings.clear()


class OneToken:
    """A model's ``extend`` by one token for one text, replayed where the state keeps its shapes: a cache that grows is never captured.

    For models whose parts are all ours or PyTorch's, in eval mode, without hooks. Before every step it is asked whether each part and each
    weight is the one that it was; weights are read where they lie, so they may change in place. What goes unseen until the next text: see
    :class:`~subquadratic.layers.untouched.Watched`.
    """

    def __init__(self, model: nn.Module, kept: Kept):
        self.kept = kept
        self.limit: int | None = None
        """The most tokens that every part of the model can count."""
        self._watched: Watched | None = None

    @classmethod
    def of(cls, model: Any) -> "OneToken | None":
        """For a text by this model; None for a model that is not one of ours."""
        if not isinstance(model, nn.Module) or not type(model).__module__.startswith(HEADS):
            return None
        kept = _of_models.get(model)
        if kept is None:
            kept = _of_models[model] = Kept(model)
        return cls(model, kept)

    def applies(self, model: nn.Module, tokens: Tensor) -> bool:
        """Whether a step may be replayed as a CUDA graph."""
        return self.kept.replayed.applies(tokens) and self.is_plain(model)

    def __call__(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, 1) and the state before -> logits (B, V) and the state after."""
        return self.kept.replayed(tokens, state, key=self.kept.key)

    def is_plain(self, model: nn.Module) -> bool:
        """Whether the model does what its parts' classes say and nothing besides; with another key if it is not what it was."""
        if self._watched is None or not self._watched.is_same():
            self._watched = self._look(model)
        return self._watched is not None and self._watched.is_untouched()

    @property
    def weights(self) -> list[Tensor]:
        """All tensors of the model that ``is_plain`` has looked at, in an order that is the same until the key is another one."""
        return [] if self._watched is None else self._watched.tensors

    def _look(self, model: nn.Module) -> Watched | None:
        """None if some part is not known here, or not untouched."""
        parts = untouched_parts(model, *FOREIGN)
        if parts is None:
            return None
        watched = Watched(parts)
        if any(type(tensor) not in PLAIN for tensor in watched.tensors):
            return None
        lying = [(tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) for tensor in watched.tensors]
        self.limit = min((part.__dict__["max_length"] for part in parts if part.__dict__.get("max_length") is not None), default=None)
        self.kept.is_now((tuple((type(part), _plain(part)) for part in parts), tuple(lying)))
        return watched


def _plain(part: nn.Module) -> list[tuple[str, Any]]:
    """A module's attributes that decide what it does, by value where they have one."""
    return [(name, value if _compares(value) else id(value)) for name, value in part.__dict__.items() if name[0] != "_"]


def _compares(value: Any) -> bool:
    """Whether a plain attribute says by its value what it was: numbers, texts, configurations."""
    return isinstance(value, PLAIN_VALUES) or (is_dataclass(value) and not isinstance(value, State))


_of_models: weakref.WeakKeyDictionary[nn.Module, Kept] = weakref.WeakKeyDictionary()
