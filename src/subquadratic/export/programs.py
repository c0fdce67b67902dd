"""A model as what `torch.export` follows: a module of tensors alone, with examples of them and the axes that stay open.

Axes: B batch, N length, S length of the source, P tokens of the past, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.state import State
from ..heads import EncoderDecoder

ROWS, LENGTH, PAST, SOURCE = 3, 301, 5, 7  # of the examples, several chunks: no graph may know of them


class Program(NamedTuple):
    """What is exported, and the names of its inputs and outputs."""

    module: nn.Module
    examples: tuple[Tensor, ...]
    axes: tuple[dict[int, str], ...]  # per example, the open ones and their names
    inputs: list[str]
    outputs: list[str]
    longest: int | None = None

    def exported(self) -> torch.export.ExportedProgram:
        """The program with its axes open.

        Raises:
            torch._dynamo.exc.UserError: if the model's arithmetic depends on one of them.
        """
        names = {name for axes in self.axes for name in axes.values()}
        dims = {name: torch.export.Dim(name, max=self.longest if name != "batch" else None) for name in names}
        shapes = tuple({axis: dims[name] for axis, name in axes.items()} for axes in self.axes)
        with torch.no_grad():
            return torch.export.export(self.module, self.examples, dynamic_shapes={"given": shapes}, strict=False)


class Whole(nn.Module):
    """A whole sequence: tokens (B, N) and mask (B, N) to what the model gives for them."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *given: Tensor) -> Tensor:
        tokens, mask = given
        return self.model(tokens, mask=mask)


class Piece(nn.Module):
    """The next piece of a sequence: tokens, mask and the tensors of the state before, to logits and the tensors of the state after."""

    def __init__(self, model: Any, state: State):
        super().__init__()
        self.model, self.state = model, state

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        tokens, mask, *before = given
        values = iter(before)
        logits, state = self.model.extend(tokens, self.state.map(lambda _: next(values)), mask=mask)
        return logits, *_copies(state)


class Source(nn.Module):
    """The source of an encoder-decoder, tokens and mask (B, S), to the tensors of the state before the target's first token."""

    def __init__(self, model: EncoderDecoder):
        super().__init__()
        self.model = model

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        source, mask = given
        return _copies(self.model.init_state(source=source, source_mask=mask))


def whole(model: Any) -> Program:
    """The program of a whole sequence, of any length that the model takes."""
    longest = model.max_length
    tokens, mask = _tokens(LENGTH if longest is None else min(LENGTH, longest))
    axes = {0: "batch", 1: "length"}
    return Program(Whole(model), (tokens, mask), (axes, axes), ["tokens", "mask"], ["logits"], longest)


def source(model: EncoderDecoder) -> Program:
    """The program that reads a source, of any length that the encoder takes."""
    longest = longest_source(model)
    tokens, mask = _tokens(LENGTH if longest is None else min(LENGTH, longest))
    axes = {0: "batch", 1: "source_length"}
    return Program(Source(model), (tokens, mask), (axes, axes), ["source", "source_mask"], state_names(first_state(model, 1)), longest)


def longest_source(model: EncoderDecoder) -> int | None:
    """Tokens that encoder and decoder can read of a source; None: any number."""
    limits = (model.embedding.max_length, getattr(model.decoder_config, "context_length", None))
    return min((limit for limit in limits if limit is not None), default=None)


@torch.no_grad()
def piece(model: Any, length: int | None, open_axes: list[dict[int, str]]) -> Program:
    """The program of the next ``length`` tokens; None: of any number. ``open_axes``: of the state's tensors, as :func:`open_axes_of`."""
    longest = (model.decoder if isinstance(model, EncoderDecoder) else model).max_length
    tokens, mask = _tokens(PAST if longest is None else min(PAST, longest))
    _, state = model.extend(tokens, first_state(model, ROWS), mask=mask)
    names = state_names(state)
    tokens, mask = _tokens(LENGTH if length is None else length)
    axes = {0: "batch"} | ({1: "length"} if length is None else {})
    past = [{0: "batch", **one} for one in open_axes]
    inputs, outputs = ["tokens", "mask", *names], ["logits", *(f"{name}.after" for name in names)]
    return Program(Piece(model, state), (tokens, mask, *state.tensors()), (axes, axes, *past), inputs, outputs)


@torch.no_grad()
def first_state(model: Any, rows: int, *, source_length: int = SOURCE) -> State:
    """The state before the first token; of an encoder-decoder, after some source of so many tokens."""
    if not isinstance(model, EncoderDecoder):
        return model.init_state(rows)
    tokens, mask = torch.zeros(rows, source_length, dtype=torch.int64), torch.ones(rows, source_length, dtype=torch.bool)
    return model.init_state(source=tokens, source_mask=mask)


def state_names(state: State) -> list[str]:
    """Where each tensor stands in a state, in the order of ``state.tensors()``: "state.backbone.stack.branches.0.layer.total"."""
    return [".".join(("state", *map(_step, path))) for path, value in pytree.tree_flatten_with_path(state)[0] if isinstance(value, Tensor)]


@torch.no_grad()
def open_axes_of(model: Any) -> list[dict[int, str]]:
    """Per tensor of the state, the axes that are longer for longer sequences: "past" with the tokens read, "source_length"."""
    first = first_state(model, 1)
    later = model.extend(torch.zeros(1, 1, dtype=torch.int64), first)[1]
    other = first_state(model, 1, source_length=SOURCE - 1)
    found = []
    for old, new, shorter in zip(first.tensors(), later.tensors(), other.tensors(), strict=True):
        read = {axis: "source_length" for axis in range(old.dim()) if old.shape[axis] != shorter.shape[axis]}
        found.append(read | {axis: "past" for axis in range(old.dim()) if old.shape[axis] != new.shape[axis]})
    return found


def _copies(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state, of which those that stay as they were are outputs of their own: an input has one name."""
    return tuple(tensor.clone() for tensor in state.tensors())


def _step(key: Any) -> str:
    return str(key.name if isinstance(key, pytree.GetAttrKey) else key.idx)


def _tokens(length: int) -> tuple[Tensor, Tensor]:
    mask = torch.ones(ROWS, length, dtype=torch.bool)
    mask[0, length // 2 :] = length == 1
    return torch.zeros(ROWS, length, dtype=torch.int64), mask
