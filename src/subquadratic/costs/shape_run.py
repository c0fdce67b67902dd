"""Running operators on tensors that have a shape and no memory.

As PyTorch's FakeTensor, whose import brings a second of the compiler, and which takes three times as long for each operator: that follows
symbolic shapes, devices and constants, none of which a run on shapes needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.shape_only import ShapeOnly
from ..kernels.native.operators import WITHOUT_MEMORY
from .shape_rules import result_of

aten = torch.ops.aten
KNOWN_NUMBERS = 1 << 24  # values of an integer tensor that are still worth computing
# Random numbers, of which a shape is all there is to know; on the device meta PyTorch draws them by way of its compiler.
DRAWN = {aten.normal_, aten.uniform_, aten.bernoulli_, aten.randn, aten.rand}


def _undrawn(function: Any, args: Any, kwargs: Any) -> Tensor:
    """What an operator of `DRAWN` gives back, with whatever numbers."""
    if isinstance(args[0], Tensor):
        return args[0]  # in place
    return torch.empty(args[0], dtype=kwargs.get("dtype"), device=kwargs.get("device"))


class DrawsNothing(TorchDispatchMode):
    """Within this, numbers drawn in place are not: for models on the device meta, where they would have no place."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # what skips it imports it

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function._overloadpacket in DRAWN:
            return _undrawn(function, args, kwargs)
        found = result_of(function, args, kwargs) if all(kind is Tensor for kind in types) and _on_meta(args) else None
        return function(*args, **kwargs) if found is None else found


class StartsNothing(TorchFunctionMode):
    """Within this, `torch.nn.init` leaves tensors as they are."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init" and function.__name__.endswith("_"):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Within this, models are made without memory, and without numbers to begin with."""
    with DrawsNothing(), torch.device("meta"), StartsNothing():
        yield


class ShapeRun(TorchDispatchMode):
    """Within this, tensors that are made have a shape alone, and operators compute shapes, and integers where they are known.

    `made(function, args, kwargs, result, tensors)` is called with the twins of each operator's arguments and result, and the result's
    tensors.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def made(self, function: Any, args: Any, kwargs: Any, result: Any, tensors: list[Tensor]) -> None:
        """Hook of subclasses."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function._overloadpacket in DRAWN and isinstance(args[0], Tensor):
            return args[0]
        given: dict[int, Tensor] = {}
        numbers: list[Tensor | None] = []

        def twin(tensor: Tensor) -> Tensor:
            if isinstance(tensor, ShapeOnly):
                found, known = tensor.shape_of, tensor.known
            else:  # a constant that was made outside
                found = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
                known = tensor.detach() if _countable(tensor) else None
            given[id(found)] = tensor
            numbers.append(known)
            return found

        twins, options = _map(twin, args), _map(twin, kwargs)
        if function is aten._local_scalar_dense.default:
            return _value(numbers[0])
        follows = all(known is not None for known in numbers) and torch.Tag.nondeterministic_seeded not in function.tags
        if function._overloadpacket is aten.arange or (follows and numbers and _is_plain(function)):
            return self._counted(function, _map(_numbers, args), _map(_numbers, kwargs))
        if _takes_device(function):
            options["device"] = META
        result = self._result(function, twins, options)
        tensors: list[Tensor] = []

        def shaped(tensor: Tensor) -> Tensor:
            tensors.append(tensor)
            return given[id(tensor)] if id(tensor) in given else ShapeOnly(tensor)

        shapes = _map(shaped, result)
        if tensors:
            self.made(function, twins, options, result, tensors)
            if follows and all(_countable(tensor) for tensor in tensors):
                _compute(function, args, kwargs, shapes)
            elif function._schema.is_mutable:
                _forget(function, args)
        return shapes

    def _counted(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What can be computed in earnest, and is soon."""
        tensors: list[Tensor] = []

        def shaped(known: Tensor) -> Tensor:
            tensors.append(torch.empty(known.shape, dtype=known.dtype, device=META))
            return ShapeOnly(tensors[-1], known if _countable(known) else None)

        shapes = _map(shaped, function(*args, **kwargs))
        self.made(function, args, kwargs, tensors, tensors)
        return shapes

    def _result(self, function: Any, twins: Any, options: Any) -> Any:
        if function._overloadpacket in DRAWN:
            return _undrawn(function, twins, options)
        of_ours = WITHOUT_MEMORY.get(function)
        if of_ours is not None:
            with DrawsNothing():  # and follows the rules for what it makes
                return of_ours(*twins, **options)
        found = result_of(function, twins, options)
        return function(*twins, **options) if found is None else found


META = torch.device("meta")


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`change` of every tensor in arguments or a result, which hold them flat or in one list."""
    if isinstance(value, Tensor):
        return change(value)
    kind = type(value)
    if kind in (tuple, list):
        return kind([_map(change, item) for item in value])
    if kind is dict:
        return {name: _map(change, item) for name, item in value.items()}
    return value


def _on_meta(args: Any) -> bool:
    return all(arg.is_meta for arg in args if isinstance(arg, Tensor))


def _is_plain(function: Any) -> bool:
    """Whether an operator makes new numbers, one for each or one of many."""
    tags = function.tags
    return (torch.Tag.pointwise in tags or torch.Tag.reduction in tags) and not function._schema.is_mutable


_devices: dict[Any, bool] = {}


def _takes_device(function: Any) -> bool:
    """Whether an operator may be told where to make its result."""
    found = _devices.get(function)
    if found is None:
        found = _devices[function] = any(argument.name == "device" for argument in function._schema.arguments)
    return found


def _countable(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel() <= KNOWN_NUMBERS


def _value(known: Tensor | None) -> Any:
    if known is None:
        raise RuntimeError("a number was asked of a tensor that has a shape alone")
    return known.item()


def _numbers(tensor: Tensor) -> Tensor:
    return tensor.known if isinstance(tensor, ShapeOnly) else tensor.detach()  # type: ignore[return-value]


def _compute(function: Any, args: Any, kwargs: Any, shapes: Any) -> None:
    """Give the integers of a result the values they would have."""
    found = function(*_map(_numbers, args), **_map(_numbers, kwargs))
    if function._schema.is_mutable and isinstance(shapes, ShapeOnly) and shapes.known is not None:
        return  # written in place
    made: list[Any] = []
    _map(lambda tensor: made.append(tensor) or tensor, shapes)  # type: ignore[func-returns-value]
    values: list[Tensor] = []
    _map(lambda tensor: values.append(tensor) or tensor, found)  # type: ignore[func-returns-value]
    for tensor, value in zip(made, values, strict=True):
        tensor.known = value


def _forget(function: Any, args: Any) -> None:
    """What was written in place with numbers that nobody knows is known no more."""
    for argument, value in zip(function._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, ShapeOnly):
            value.known = None
