"""One token after another through a model: as a recording of its calls, once they repeat.

Axes: B rows, V vocabulary.
"""

from typing import Any

from torch import Tensor

from ..core.state import State
from ..replay.cuda_graph import may_replay, settings
from ..replay.recorded_calls import Program, Recording, record
from ..replay.structure import flatten, rebuild
from .step_cache import OneToken

PATIENCE = 3  # steps that leave shapes as they were before one is recorded, which takes as long as some eight
UNKNOWN: Any = object()  # in the place of a recording that has not been tried


class Reached:
    """How far a model has read: a state, put together when somebody asks for it."""

    __slots__ = ("_form", "_state", "tensors")

    def __init__(self, state: State | None, *, tensors: list[Tensor] | None = None, form: State | None = None):
        self._state, self.tensors, self._form = state, tensors, form

    @property
    def state(self) -> State | None:
        """None: nothing has been read."""
        if self._state is None and self.tensors is not None:
            self._state = rebuild(self._form, iter(self.tensors))
        return self._state


class Steps:
    """How a model reads single tokens.

    Recorded where three things hold: the state keeps its shapes from token to token; no operation's course depends on numbers, which the
    recorder finds out; nothing besides operations happens, as in hooks (:class:`~.step_cache.OneToken`). Recordings belong to the model, so
    that the next text begins with them. Else the model is called. The results are the same bit for bit.

    Args:
        model: with ``extend(tokens, state, last_only=True)``.
    """

    def __init__(self, model: Any):
        self.model = model
        self.own = OneToken.of(model)
        self._program: Program | None = None
        self._stamp: tuple[Any, ...] | None = None  # under what the program holds
        self._form: State | None = None  # a state with anything in the place of its tensors
        self._last: Reached | None = None  # what the program reached, whose layout need not be looked at
        self._repeated = self._grown = 0  # steps that left shapes as they were, and that did not

    def read(self, token: Tensor, before: Reached) -> tuple[Tensor, Reached]:
        """One token (B, 1) of each row, after what was reached before: the logits (B, V), and what is reached then."""
        own = self.own
        if own is None or not may_replay(token) or not own.is_plain(self.model):
            return self.call(token, before)
        kept = own.kept
        stamp = (kept.key, settings(), token.shape, token.dtype, token.device)
        if self._program is None or before is not self._last or stamp != self._stamp:
            tensors = flatten(before.state)[0]
            before = Reached(before.state, tensors=tensors)
            layout = (stamp, _layout(before))
            recording = kept.recordings.get(layout, UNKNOWN)  # one look: another thread may throw recordings away
            if recording is UNKNOWN:
                return self._record(token, before, layout) if self._repeated >= PATIENCE else self._watch(token, before)
            if recording is None:
                return self._call_from_now_on(token, before)
            self._program, self._stamp = self._bound(recording), stamp
            self._form = rebuild(before.state, iter([token] * len(tensors)))
        assert self._program is not None and before.tensors is not None
        logits, *tensors = self._program(token, *before.tensors)
        self._last = Reached(None, tensors=tensors, form=self._form)
        return logits, self._last

    def call(self, token: Tensor, before: Reached) -> tuple[Tensor, Reached]:
        """The same by the model itself."""
        logits, state = self.model.extend(token, before.state, last_only=True)
        return logits[:, -1], Reached(state)

    def _watch(self, token: Tensor, before: Reached) -> tuple[Tensor, Reached]:
        logits, after = self.call(token, before)
        after.tensors = flatten(after.state)[0]
        same = _layout(after) == _layout(before)
        self._repeated, self._grown = (self._repeated + 1, self._grown) if same else (0, self._grown + 1)
        if self._grown > PATIENCE:
            self.own = None  # a cache
        return logits, after

    def _call_from_now_on(self, token: Tensor, before: Reached) -> tuple[Tensor, Reached]:
        """Numbers decide which operations run."""
        self.own = None
        return self.call(token, before)

    def _record(self, token: Tensor, before: Reached, layout: Any) -> tuple[Tensor, Reached]:
        own, reached = self.own, []
        assert own is not None and before.tensors is not None

        def step(token: Tensor, *tensors: Tensor) -> list[Tensor]:
            logits, after = self.call(token, Reached(rebuild(before.state, iter(tensors))))
            reached.append(after)
            return [logits, *flatten(after.state)[0]]

        (logits, *tensors), recording = record(step, (token, *before.tensors), self._weights())
        after = Reached(reached[0].state, tensors=tensors)
        own.kept.keep(layout, recording if _layout(after) == _layout(before) else None)
        return logits, after

    def _bound(self, recording: Recording) -> Program:
        return recording.bind(self._weights())

    def _weights(self) -> list[Tensor]:
        assert self.own is not None
        return self.own.weights


def _layout(reached: Reached) -> tuple[Any, ...]:
    assert reached.tensors is not None
    return flatten(reached.state)[1], tuple(tensor.stride() for tensor in reached.tensors)
