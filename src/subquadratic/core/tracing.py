"""Who follows the operations, and how much may they see: autograd, recordings, compilers and the transforms of ``torch.func``."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..kernels.derivatives import is_without_numbers

P = ParamSpec("P")
T = TypeVar("T")


def in_one_call(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: recorded as one call, whatever the function does with the numbers in its tensors. Its first argument is a tensor."""

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        first = (args[0],)
        if not torch.compiler.is_compiling() and has_torch_function(first):
            return handle_torch_function(call, first, *args, **options)
        return function(*args, **options)

    call.in_one_call = True  # type: ignore[attr-defined]
    return call


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether autograd will ask for a backward of an op on these."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_open(*sizes: int) -> bool:
    """Whether an export leaves one of these sizes open: nothing may then depend on it, neither a choice nor the number of operations."""
    return torch.compiler.is_exporting() and any(isinstance(size, torch.SymInt) for size in sizes)


def may_look(tensor: Tensor) -> bool:
    """Whether a tensor's numbers may be asked for: not while a compiler follows or a graph is traced, which would hold the answer for good,
    not of what ``torch.func.vmap`` maps over, and not where there are none."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_without_numbers() or tensor.is_meta:
        return False
    if not torch._C._are_functorch_transforms_active():
        return True
    inner = torch._C._functorch
    while inner.is_functorch_wrapped_tensor(tensor):
        if inner.is_batchedtensor(tensor):
            return False
        tensor = inner.get_unwrapped(tensor)
    return True
