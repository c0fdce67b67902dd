"""One new token through all layers of a causal Performer by the C kernels, as one operator: float32 on a CPU, no gradients. Maps are
float32, or int8 with a scale for each output.

A layer is LayerNorm, FAVOR+ between its maps, residual sum, LayerNorm, feed-forward layer, residual sum. The kernels of a layer take some
fifty microseconds for one row, and calling them from Python twice as many.

Axes: B batch, D width, H heads, K head width, M features, F inner width.
"""

import ctypes
import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.kept_memory import empty_like
from ...core.numerics import NOTHING
from ...kernels.native.checks import check_tensor, required, whole
from ...kernels.native.library import Arguments, call
from ...kernels.native.operators import INT64, POINTER
from ...kernels.native.operators import operator as kernel_operator

NAME = "favor_layers_step"
WEIGHTS = ("norm", "query", "key", "value", "projection", "output", "second_norm", "expand", "contract")
BIASES = ("norm_bias", "query_bias", "key_bias", "value_bias", "output_bias", "second_norm_bias", "expand_bias", "contract_bias")
MAY_BE_NONE = {"query_bias", "key_bias", "value_bias", "output_bias", "expand_bias", "contract_bias"}
QUERY, PROJECTION, EXPAND, CONTRACT = (WEIGHTS.index(name) for name in ("query", "projection", "expand", "contract"))
STATE = ("total", "weight", "maximum")
MAPS = {"query", "key", "value", "output", "expand", "contract"}  # which may be int8


SHAPE, DTYPE = operator.attrgetter("shape"), operator.attrgetter("dtype")
POINTERS = ("x", "turns", "weights", "scales", "biases", "before", "after", "sizes", "epsilons", "stream", "scratch")


class Layers(Arguments, layout="favor_layers"):
    """``layers`` of layers.c."""

    _fields_ = [
        *((name, POINTER) for name in POINTERS),
        *((name, INT64) for name in ("layers", "batch", "dim", "heads", "width", "turns_step", "threads")),
        ("nothing", ctypes.c_float),
    ]


def _like(x: Tensor, turns: Tensor | None, weights: Any, scales: Any, biases: Any, state: Sequence[Tensor], *_: Any) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in (x, *state)]


def _check(
    x: Tensor, turns: Tensor | None, weights: Sequence[Tensor], scales: Sequence[Tensor | None], biases: Sequence[Tensor | None],
    state: Sequence[Tensor], heads: int, epsilons: Sequence[float],
) -> None:  # fmt: skip
    layers, rest = divmod(len(weights), len(WEIGHTS))
    counts = [len(given) for given in (weights, scales, biases, state, epsilons)]
    if rest or not layers or counts[1:] != [layers * count for count in (len(WEIGHTS), len(BIASES), len(STATE), 2)]:
        raise ValueError(
            f"{NAME}: of each layer there must be {len(WEIGHTS)} weights, a scale or None for each, {len(BIASES)} biases, {len(STATE)} "
            f"parts of a state and 2 epsilons, got {', '.join(map(str, counts))}"
        )
    batch, dim = _matrix("x", x)
    _check_scales(weights, scales)
    if _are_usual(x, turns, weights, scales, biases, state, heads):
        return
    width, odd = divmod(_matrix("query", weights[QUERY])[0], max(heads, 1))
    if odd or heads < 1 or (turns is not None and width % 2):
        raise ValueError(f"{NAME}: query must make heads of one width, an even one where they are turned, got {heads} heads of {width}")
    by_row = turns is not None and turns.dim() == 4 and turns.shape[0] == batch
    given: list[Any] = [("x", x, (batch, dim))]
    if turns is not None:
        given.append(("turns", turns, (batch, 1, 1, width) if by_row else (1, width) if turns.dim() == 2 else (1, 1, 1, width)))
    for layer in range(layers):
        own = weights[layer * len(WEIGHTS) : (layer + 1) * len(WEIGHTS)]
        (features, _), (expanded, _), (_, wide) = (_matrix(WEIGHTS[at], own[at]) for at in (PROJECTION, EXPAND, CONTRACT))
        if wide < 1 or expanded not in (wide, 2 * wide):
            raise ValueError(f"{NAME}: expand must have as many rows as contract has columns, {wide}, or twice as many, got {expanded}")
        for_weights, for_biases, for_state = _shapes(batch, dim, heads, width, features, expanded, wide)
        given += zip(WEIGHTS, own, for_weights, strict=True)
        given += zip(BIASES, biases[layer * len(BIASES) : (layer + 1) * len(BIASES)], for_biases, strict=True)
        given += zip(STATE, state[layer * len(STATE) : (layer + 1) * len(STATE)], for_state, strict=True)
    of_maps = {id(weight) for weight, scale in zip(weights, scales, strict=True) if scale is not None}
    for name, tensor, shape in given:
        if tensor is None and name in MAY_BE_NONE:
            continue
        dtype = torch.int8 if id(tensor) in of_maps else torch.float32
        if tensor is None or tensor.shape != shape or tensor.dtype is not dtype or not tensor.is_contiguous():
            check_tensor(NAME, name, tensor, shape, dtype=dtype)


def _check_scales(weights: Sequence[Tensor], scales: Sequence[Tensor | None]) -> None:
    if all(map(operator.is_, scales, itertools.repeat(None))):
        return
    for at, (weight, scale) in enumerate(zip(weights, scales, strict=True)):
        if scale is None:
            continue
        name = WEIGHTS[at % len(WEIGHTS)]
        if name not in MAPS:
            raise ValueError(f"{NAME}: {name} is float32 and has no scale: only {', '.join(sorted(MAPS))} may be int8")
        if scale.shape != weight.shape[:1] or scale.dtype is not torch.float32 or not scale.is_contiguous():
            check_tensor(NAME, f"scale of {name}", scale, tuple(weight.shape[:1]))


def _are_usual(
    x: Tensor, turns: Tensor | None, weights: Sequence[Tensor], scales: Sequence[Tensor | None], biases: Sequence[Tensor | None],
    state: Sequence[Tensor], heads: int,
) -> bool:  # fmt: skip
    """Whether these are what they must be, all layers of one size: found out in a third of the time that it takes to say what is wrong."""
    first = [weights[at].shape for at in (QUERY, PROJECTION, EXPAND, CONTRACT)]
    if heads < 1 or any(len(shape) != 2 for shape in first):
        return False
    (inside, _), (features, width), (expanded, _), (_, wide) = first
    if inside != heads * width or wide < 1 or expanded not in (wide, 2 * wide) or (turns is not None and width % 2):
        return False
    for_weights, for_biases, for_state = _shapes(*x.shape, heads, width, features, expanded, wide)
    given, layers = [*weights, x, *state], len(weights) // len(WEIGHTS)
    expected = [*for_weights * layers, x.shape, *for_state * layers]
    dtypes = [torch.float32 if scale is None else torch.int8 for scale in scales]
    for at, bias in enumerate(biases):
        name = at % len(BIASES)
        if bias is not None:
            given.append(bias)
            expected.append(for_biases[name])
        elif BIASES[name] not in MAY_BE_NONE:
            return False
    if turns is not None:
        given.append(turns)
        expected.append((len(x), 1, 1, width) if turns.dim() == 4 and len(turns) == len(x) else (1, width))
    alike = list(map(SHAPE, given)) == expected and list(map(DTYPE, given[: len(weights)])) == dtypes
    alike = alike and set(map(DTYPE, given[len(weights) :])) == {torch.float32}
    return alike and all(map(Tensor.is_contiguous, given))


Shapes = tuple[tuple[int, ...], ...]


@functools.lru_cache
def _shapes(batch: int, dim: int, heads: int, width: int, features: int, expanded: int, wide: int) -> tuple[Shapes, Shapes, Shapes]:
    """Of a layer's weights, biases and state."""
    inside = heads * width
    map_, norm = (inside, dim), (dim,)
    weights = (norm, map_, map_, map_, (features, width), (dim, inside), norm, (expanded, dim), (dim, wide))
    biases = (norm, (inside,), (inside,), (inside,), norm, norm, (expanded,), norm)
    return weights, biases, ((batch, heads, features, width), (batch, heads, features), (batch, heads, 1))


def _matrix(name: str, x: Tensor) -> tuple[int, int]:
    if required(NAME, name, x).dim() != 2:
        check_tensor(NAME, name, x, (-1, -1))
    return x.shape[0], x.shape[1]


def _work_of_favor_layers_step(
    x: Tensor, turns: Any, weights: Sequence[Tensor], scales: Any, biases: Any, state: Sequence[Tensor], *_: Any
) -> int:
    maps = sum(weight.numel() for weight in weights if weight.dim() == 2)
    return len(x) * maps + 2 * sum(part.numel() for part in state if part.dim() == 4)


@kernel_operator(work=_work_of_favor_layers_step, fake=_like, check=_check)
def favor_layers_step(
    x: Tensor, turns: Tensor | None, weights: Sequence[Tensor], scales: Sequence[Tensor | None], biases: Sequence[Tensor | None],
    state: Sequence[Tensor], heads: int, epsilons: Sequence[float],
) -> list[Tensor]:  # fmt: skip
    """The residual stream (B, D) after all layers, and the state after.

    Args:
        x: the stream before.
        turns: cosines and sines by which queries and keys are turned, (1, K) or (B, 1, 1, K); None: they are not.
        weights, biases: of each layer what ``WEIGHTS`` and ``BIASES`` name; gates first in ``expand``, where it is twice as wide.
        scales: of each weight: of its outputs where it is int8, None where it is float32.
        state: of each layer what ``STATE`` names, as in ``favor_step``.
        epsilons: of each layer's two norms.
    """
    (batch, dim), inside, count = x.shape, weights[QUERY].shape[0], len(weights) // len(WEIGHTS)
    of_layers = []
    for start in range(0, len(weights), len(WEIGHTS)):
        of_layers += [weights[start + PROJECTION].shape[0], weights[start + EXPAND].shape[0], weights[start + CONTRACT].shape[1]]
    stream, after = torch.empty_like(x), [empty_like(part) for part in state]
    scratch = x.new_empty(2 * whole(batch * dim) + 4 * whole(batch * inside) + whole(2 * batch) + whole(batch) * 3 * max(of_layers[2::3]))
    step = 0 if turns is None or turns.numel() == inside // heads else inside // heads
    arrays: list[Any] = [_addresses(tensors) for tensors in (weights, scales, biases, state, after)]
    numbers = (ctypes.c_int64 * len(of_layers))(*of_layers), (ctypes.c_float * len(epsilons))(*epsilons)
    addresses = [ctypes.addressof(array) for array in [*arrays, *numbers]]
    pointers = (x.data_ptr(), None if turns is None else turns.data_ptr(), *addresses, stream.data_ptr(), scratch.data_ptr())
    call("favor_layers_step", Layers(*pointers, count, batch, dim, heads, inside // heads, step, torch.get_num_threads(), NOTHING))
    return [stream, *after]


def _addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (POINTER * len(tensors))(*[None if tensor is None else tensor.data_ptr() for tensor in tensors])
