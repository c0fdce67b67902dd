"""One token after another through a model: as a recording of its calls, once they repeat.

Axes: B rows, V vocabulary.
"""

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.state import State
from ..replay.cuda_graph import may_replay, settings
from ..replay.recorded_calls import Program, record
from ..replay.structure import flatten, rebuild
from .step_cache import OneToken

PATIENCE = 3  # steps that leave shapes as they were before one is recorded, which takes as long as some eight
UNKNOWN: Any = object()  # in the place of a recording that has not been tried


class Reached:
    """How far a model has read: a state, put together when somebody asks for it."""

    __slots__ = ("_form", "_state", "by", "tensors")

    def __init__(self, state: State | None, *, tensors: list[Tensor] | None = None, form: State | None = None, by: Any = None):
        self._state, self.tensors, self._form, self.by = state, tensors, form, by

    @property
    def state(self) -> State | None:
        """None: nothing has been read."""
        if self._state is None and self.tensors is not None:
            self._state = rebuild(self._form, iter(self.tensors))
        return self._state


class Bound(NamedTuple):
    """A recording with the weights that it reads."""

    program: Program
    holds_for: tuple[Any, ...]
    form: State  # a state with anything in the place of its tensors


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
        self._bound: Bound | None = None
        self._repeated = self._grown = 0  # steps that left shapes as they were, and that did not

    def read(self, token: Tensor, before: Reached) -> tuple[Tensor, Reached]:
        """One token (B, 1) of each row, after what was reached before: the logits (B, V), and what is reached then."""
        own = self.own
        if own is None or not may_replay(token) or not own.is_plain(self.model):
            return self.call(token, before)
        kept, bound = own.kept, self._bound  # another thread may bind another one meanwhile
        stamp = (kept.key, settings(), token.shape, token.dtype, token.device)
        # The layout of what a program reached need not be looked at.
        if bound is None or before.by is not bound or stamp != bound.holds_for[0]:
            tensors, shapes = flatten(before.state)
            before = Reached(before.state, tensors=tensors)
            layout = (stamp, shapes, tuple(map(Tensor.stride, tensors)))
            if bound is None or layout != bound.holds_for:
                recording = kept.recordings.get(layout, UNKNOWN)  # one look: another thread may throw recordings away
                if recording is UNKNOWN:
                    return self._record(token, before, layout) if self._repeated >= PATIENCE else self._watch(token, before)
                if recording is None:
                    return self._call_from_now_on(token, before)
                form = rebuild(before.state, iter([token] * len(tensors)))
                bound = self._bound = Bound(recording.bind(self._weights()), layout, form)
        assert before.tensors is not None
        logits, *tensors = bound.program(token, *before.tensors)
        return logits, Reached(None, tensors=tensors, form=bound.form, by=bound)

    def call(self, token: Tensor, before: Reached) -> tuple[Tensor, Reached]:
        """The same by the model itself."""
        logits, state = _extend(self.model)(token, before.state, last_only=True)
        return logits[:, -1], Reached(state)

    def _watch(self, token: Tensor, before: Reached) -> tuple[Tensor, Reached]:
        logits, after = self.call(token, before)
        after.tensors = flatten(after.state)[0]
        same = _layout(after) == _layout(before)
        if same:
            self._repeated += 1
        else:
            widened = before.tensors is not None and len(before.tensors[0]) != len(after.tensors[0])  # a state of one row that held for all
            self._repeated, self._grown = 0, self._grown + (not widened)
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

    def _weights(self) -> list[Tensor]:
        assert self.own is not None
        return self.own.weights


def _extend(model: Any) -> Any:
    """A model's ``extend``, which may itself go by recorded steps, without them."""
    return getattr(model, "extend_by_call", model.extend)


def read_by_recording(model: Any, token: Tensor, state: State) -> tuple[Tensor, Any] | None:
    """One token (B, 1) after a state, for a model whose ``extend`` is given one after another: the logits (B, 1, V) and the state after, by
    a recording; None: the model is to be called.

    A state that was not reached in this way begins a text: the model is called, and looked at before the next token."""
    if torch.compiler.is_compiling() or not token.is_cpu or not may_replay(token):
        return None
    known = _reached_by.get(id(state))
    goes_on = known is not None and known[0]() is state and known[1].model is model
    steps = known[1] if known is not None and goes_on else Steps(model)
    if steps.own is None:
        return None  # not one of our models, or one whose state grows
    logits, reached = steps.read(token, Reached(state)) if goes_on else steps.call(token, Reached(state))
    after = reached.state
    assert after is not None
    key = id(after)
    _reached_by[key] = weakref.ref(after, lambda _: _reached_by.pop(key, None)), steps
    return logits.unsqueeze(1), after


_reached_by: dict[int, tuple[weakref.ref[State], Steps]] = {}  # by the identity of a state that is still there


def _layout(reached: Reached) -> tuple[Any, ...]:
    assert reached.tensors is not None
    return flatten(reached.state)[1], tuple(tensor.stride() for tensor in reached.tensors)
