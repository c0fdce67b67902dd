"""How the C kernels become operators of PyTorch, and are handed tensors: as in tensor.h.

Axes: B batch, H heads, N length, X width.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..derivatives import has_derivative
from .checks import Asked, on_one_device
from .flops import count_work
from .library import Arguments

CHUNK = 64
POINTER, INT64 = ctypes.c_void_p, ctypes.c_int64
ROWS = ("queries", "keys", "values", "output", "d_output", "d_queries", "d_keys", "d_values")  # (B, H, N, X), with steps


_OPERATORS = torch.library.Library("subquadratic", "FRAGMENT")
WITHOUT_MEMORY: dict[Any, Callable[..., Any]] = {}  # of each operator, what it makes of tensors on the device meta


def operator(
    *, fake: Callable[..., Any], check: Callable[..., None] | Asked, work: Callable[..., int] | None = None
) -> Callable[[Callable[..., Any]], Any]:
    """Make an operator of a function on CPU tensors, with ``fake`` for tensors that have a shape and no memory.

    ``check`` looks at the arguments before either sees them, and raises ValueError for what the kernel cannot read. That all tensors lie on
    the CPU is PyTorch's doing: it calls the function for no others. ``work``: of the arguments, how many multiply-adds it does, for whoever
    counts a model's operations; a causal call of exact attention counts as a full one, as PyTorch counts its own.

    An operator has no derivatives: the autograd functions of `native.py` have. Called by its name in ``torch.ops`` it therefore refuses
    whatever autograd would differentiate. What comes back calls it below autograd, as those functions do, and saves that question.

    Nor is a backward registered with it (``torch.library.register_autograd``), which makes every call twice as slow, those of a decode step
    among them: on 64 numbers, interleaved, 4.8 µs instead of 2.4 without gradients, 10.8 instead of 5.6 with them, 35 instead of 27 with
    the backward.

    As ``torch.library.custom_op``, whose first call imports PyTorch's compiler: a second, and 120 MB.
    """

    def make(function: Callable[..., Any]) -> Any:
        name, fits = function.__name__, check.of(function) if isinstance(check, Asked) else check

        def run(*arguments: Any) -> Any:
            fits(*arguments)
            return function(*arguments)

        def run_without_memory(*arguments: Any) -> Any:
            on_one_device(name, arguments)
            fits(*arguments)
            return fake(*arguments)

        @functools.wraps(function)
        def below_autograd(*arguments: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return call(*arguments)

        def run_unless_differentiated(*arguments: Any) -> Any:
            if has_derivative(arguments):
                raise RuntimeError(
                    f"{name} has no derivative, and an argument requires one (requires_grad=True or a tangent): call the layers and models "
                    f"of subquadratic, which differentiate it, or detach() the arguments"
                )
            return below_autograd(*arguments)

        _OPERATORS.define(name + torch.library.infer_schema(function, mutates_args=()))
        _OPERATORS.impl(name, run, "CPU")
        _OPERATORS.impl(name, run_unless_differentiated, "Autograd")
        torch.library.register_fake(f"subquadratic::{name}", run_without_memory, lib=_OPERATORS)
        call = getattr(torch.ops.subquadratic, name).default
        call.as_recorded = run  # nothing follows a recording's calls, whose tensors lie on a CPU: they need not be dispatched
        WITHOUT_MEMORY[call] = run_without_memory
        if work is not None:
            count_work(name, work)
        return below_autograd

    return make


class Rows(Arguments, layout="rows"):
    """``rows`` of tensor.h."""

    _fields_ = [("at", POINTER), ("batch", INT64), ("head", INT64), ("row", INT64)]


def fields(**arguments: Any) -> dict[str, Any]:
    """Fields of a kernel's arguments, and how many threads it takes: numbers as they are, tensors on the CPU where they lie."""
    found = {name: _field(name, value) for name, value in arguments.items() if value is not None}
    return found | {"threads": torch.get_num_threads()}


def _field(name: str, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if name not in (*ROWS, "d_more"):
        return dense(value).data_ptr()
    return Rows(value.data_ptr(), *value.stride()[:3])


def dense(x: Tensor) -> Tensor:
    """``x`` itself.

    Raises:
        ValueError: if its numbers do not lie one after the other.
    """
    if not x.is_contiguous():
        raise ValueError(f"a kernel reads and writes contiguous tensors, got one of shape {tuple(x.shape)} with strides {x.stride()}")
    return x


def positions(x: Tensor) -> int:
    """How many rows (B, H, N, X) has."""
    return x.shape[0] * x.shape[1] * x.shape[2]


def turns_step(turns: Tensor | None, length: int, width: int) -> int:
    """From one row of the batch to the next in rotary turns: none where all rows share them, (N, K) or (1, 1, N, K)."""
    return 0 if turns is None or turns.numel() == length * width else length * width


def shares_of(heads: int, length: int, *, again: float = 0.0) -> int:
    """Into how many shares each of ``heads`` sequences is cut, so that all threads have work to the end.

    ``again``: of its work, what a kernel does once more where there are several.
    """
    threads, most = torch.get_num_threads(), max(1, min(length // (4 * CHUNK), 4 * torch.get_num_threads()))
    return min(range(1, most + 1), key=lambda shares: -(-heads * shares // threads) / shares * (1 + again * (shares > 1)))
