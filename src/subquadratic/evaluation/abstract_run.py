"""Running a model on shapes alone: every operation happens on tensors that have a shape and no memory.

What comes out is exact for what PyTorch itself would allocate on the CPU: each tensor that the forward and the backward pass
make, and how long it lives. Integers and booleans are computed in earnest beside it, because positions, lengths and masks
decide which way a model takes.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count, shape_wrapper

from ..kernels import native  # noqa: F401  (its operators are in PyTorch's registry then)

aten = torch.ops.aten
KNOWN_NUMBERS = 1 << 24  # values of an integer tensor that are still worth computing


def _attention_flops(queries: Any, keys: Any, values: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(queries, keys, values)


def _attention_backward_flops(gradient: Any, queries: Any, keys: Any, values: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, queries, keys, values)


# PyTorch has these for GPUs only. As there, a causal call counts as a full one.
FLOPS = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(_attention_flops),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(_attention_backward_flops),
}


class Ledger(TorchDispatchMode):
    """Counts operations and the bytes of all tensors that are alive; computes integers for real.

    Attributes:
        live: bytes of the tensors made since the start that still exist.
        peak: the largest `live` so far.
        flops: floating-point operations of matrix products and attention, two per multiplication.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._held: dict[int, weakref.ref[Any]] = {}

    def own(self, tensor: Tensor, *, counted: bool = False) -> None:
        """Note a tensor's storage; parameters and the like are not counted."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if counted else 0
        if key in self._held:
            return

        def gone(_: Any) -> None:
            self.live -= size
            self._held.pop(key, None)

        self._held[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.prim.device.default:  # asked more often than all the rest together
            return args[0].fake_device
        kwargs = kwargs or {}
        if function is aten._local_scalar_dense.default and hasattr(args[0], "_known"):
            with no_dispatch():
                return args[0]._known.item()
        result = function(*args, **kwargs)
        if function._overloadpacket in FLOPS:
            self.flops += int(FLOPS[function._overloadpacket](*args, **kwargs, out_val=result))
        made = [tensor for tensor in tree_iter(result) if isinstance(tensor, Tensor)]
        for tensor in made:
            self.own(tensor, counted=True)
        if made and all(_countable(tensor) for tensor in made) and not function._schema.is_mutable:
            _compute(function, args, kwargs, made)
        return result


def _countable(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel() <= KNOWN_NUMBERS


def _compute(function: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
    """Give the integers `made` the values they would have, where everything they come from is known."""
    given = [tensor for tensor in tree_iter((args, kwargs)) if isinstance(tensor, Tensor)]
    if not all(hasattr(tensor, "_known") for tensor in given) or torch.Tag.nondeterministic_seeded in function.tags:
        return
    known_args, known_kwargs = tree_map_only(Tensor, lambda tensor: tensor._known, (args, kwargs))
    with no_dispatch():
        known = function(*known_args, **known_kwargs)
    for tensor, value in zip(made, (tensor for tensor in tree_iter(known) if isinstance(tensor, Tensor)), strict=True):
        tensor._known = value  # type: ignore[attr-defined]


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
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True), Ledger() as ledger:
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


def _without_memory(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        shape = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
        memo[id(parameter)] = nn.Parameter(shape, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    return copy.deepcopy(model, memo)
