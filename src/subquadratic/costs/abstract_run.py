"""Running a model on shapes alone: every operation happens on tensors that have a shape and no memory.

What comes out is exact for what PyTorch itself would allocate on the CPU: each tensor that the forward and the backward pass
make, and how long it lives. Integers and booleans are computed in earnest beside it, because positions, lengths and masks
decide which way a model takes.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.native.flops import MULTIPLY_ADDS as OF_OURS
from .shape_run import ShapeRun

COMPILER = "torch._dynamo"
aten = torch.ops.aten


def _products(x: Tensor, y: Tensor, *_: Any) -> int:
    return x.numel() * y.shape[-1]


def _attention(queries: Tensor, keys: Tensor, values: Tensor, *_: Any) -> int:
    return queries.shape[:-1].numel() * keys.shape[-2] * (keys.shape[-1] + values.shape[-1])


def _attention_backward(d_output: Tensor, queries: Tensor, keys: Tensor, values: Tensor, *_: Any) -> int:
    return queries.shape[:-1].numel() * keys.shape[-2] * (3 * keys.shape[-1] + 2 * values.shape[-1])


def _convolution(x: Tensor, weight: Tensor, *_: Any, made: Any) -> int:
    return made.numel() * weight[0].numel()


def _convolution_backward(d_y: Tensor, x: Tensor, weight: Tensor, *given: Any, made: Any) -> int:
    return d_y.numel() * weight[0].numel() * sum(given[-1][:2])  # of what is wanted: gradients of x, of the weight


# Multiplications with an addition each, by operator. As in PyTorch's own counter, a causal call of attention counts as a full one; that
# counter is not asked, because its import brings Triton.
MULTIPLY_ADDS: dict[Any, Callable[..., int]] = {
    aten.mm: _products,
    aten.bmm: _products,
    aten.addmm: lambda bias, x, y, *_: _products(x, y),
    aten.baddbmm: lambda bias, x, y, *_: _products(x, y),
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
CONVOLUTIONS: dict[Any, Callable[..., int]] = {aten.convolution: _convolution, aten.convolution_backward: _convolution_backward}


def multiply_adds(function: Any, args: Any, result: Any) -> int:
    """How many an operator does; 0 for one that multiplies no matrices."""
    packet = function._overloadpacket
    if packet in CONVOLUTIONS:
        return CONVOLUTIONS[packet](*args, made=result)
    count = MULTIPLY_ADDS.get(packet) or OF_OURS.get(function._schema.name)
    return 0 if count is None else count(*args)


class Ledger(ShapeRun):
    """Counts operations and the bytes of all tensors that are alive.

    Attributes:
        live: bytes of the tensors made since the start that still exist.
        peak: the largest `live` so far.
        flops: floating-point operations of matrix products and attention, two per multiplication.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._held: dict[int, weakref.ref[Any]] = {}

    def own(self, tensor: Any, *, counted: bool = False) -> None:
        """Note a tensor's storage; parameters and the like are not counted."""
        storage = getattr(tensor, "shape_of", tensor).untyped_storage()
        key = storage._cdata
        if key in self._held:
            return
        size = storage.nbytes() if counted else 0

        def gone(_: Any) -> None:
            self.live -= size
            self._held.pop(key, None)

        self._held[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)

    def made(self, function: Any, args: Any, kwargs: Any, result: Any, tensors: list[Tensor]) -> None:
        self.flops += 2 * multiply_adds(function, args, result)
        for tensor in tensors:
            self.own(tensor, counted=True)


@dataclass(frozen=True)
class AbstractRun:
    """One run on shapes; see `abstract_run`."""

    model: Any
    """The model, with its weights as shapes."""
    ledger: Ledger
    """Bytes alive, without parameters and their gradients, and operations."""


@contextmanager
def abstract_run(model: nn.Module, *, gradients: bool = False) -> Iterator[AbstractRun]:
    """A copy of `model` without memory, for code in the `with` block to run; tensors made in the block have none either.

    Args:
        model: on any device, also meta; it is not changed.
        gradients: whether every parameter has its gradient from the start, as from the second step on.
    """
    with torch.random.fork_rng(devices=[]), _without_compiler(), Ledger() as ledger:
        shadow = _without_memory(model)
        for parameter in shadow.parameters():
            ledger.own(parameter)
            if gradients and parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
                ledger.own(parameter.grad)
        for buffer in shadow.buffers():
            ledger.own(buffer)
        ledger.live = ledger.peak = 0
        yield AbstractRun(shadow, ledger)


class _NoCompiler(ModuleType):
    """Stands where PyTorch's compiler would be imported: every setting is off, and what it is to leave alone is as it is."""

    def __init__(self) -> None:
        super().__init__(COMPILER)
        self.left_alone: list[Any] = []

    def disable(self, function: Any = None, *_: Any, **__: Any) -> Any:
        """The function, or a decorator that gives it back."""
        self.left_alone.append(function)
        return (lambda given: given) if function is None else function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self if name == "config" else False


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Parts of PyTorch (checkpointing, rules for shapes) import its compiler to be left alone by it, or to ask for a setting: a second, and
    there is nothing here to compile. Where it is imported already, it stays."""
    if COMPILER in sys.modules:
        yield
        return
    stand_in = _NoCompiler()
    sys.modules[COMPILER] = vars(torch)["_dynamo"] = stand_in
    try:
        yield
    finally:
        del sys.modules[COMPILER]
        vars(torch).pop("_dynamo", None)
        for function in stand_in.left_alone:  # the compiler, once it comes, is asked anew
            vars(function).pop("__dynamo_disable", None) if function is not None else None


def _without_memory(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        shape = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
        memo[id(parameter)] = nn.Parameter(shape, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    return _twin(model, memo)


def _twin(module: nn.Module, memo: dict[int, Any]) -> Any:
    """A copy with other tensors; what else a module holds is copied one level deep, in a tenth of the time of `copy.deepcopy`."""
    if id(module) in memo:
        return memo[id(module)]
    made = memo[id(module)] = object.__new__(type(module))
    for name, value in vars(module).items():
        if name in ("_parameters", "_buffers"):
            value = {key: memo.get(id(tensor), tensor) for key, tensor in value.items()}
        elif name == "_modules":
            value = {key: None if child is None else _twin(child, memo) for key, child in value.items()}
        elif isinstance(value, nn.Module):
            value = _twin(value, memo)
        elif type(value) in (dict, list, set, OrderedDict):
            value = copy.copy(value)
        made.__dict__[name] = value
    return made
