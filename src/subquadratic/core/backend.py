"""Who computes a mechanism: PyTorch's own operators, the Triton kernels of `subquadratic.kernels`, or its C kernels."""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from ..kernels import triton
from ..kernels.derivatives import is_plain, is_traced, is_transformed
from ..kernels.native.library import why_not
from .choices import BACKENDS, backend_named
from .errors import require, require_choice

PLAIN = (Tensor, torch.nn.Parameter)  # types of tensors that are neither sharded nor quantised, nor anyone else's
Computer = Literal["formula", "torch", "native", "triton"]
_chosen = backend_named(os.environ)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within this context every op whose own ``backend`` is None takes this one.

    Args:
        name: "auto" (the default, or what the environment variable ``SUBQUADRATIC_BACKEND`` says): Triton on a CUDA device for
            bfloat16, where it is installed; C kernels on a CPU for float32, where they were built; else PyTorch. "torch", "triton"
            or "native" (the C kernels): always that one, where the op has it.

    Raises:
        ValueError: for another name.

    For the whole process, not one thread.
    """
    global _chosen
    require_choice("backend", name, BACKENDS)
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def chosen_backend() -> str:
    """The name that :func:`use_backend` chose, or "auto"."""
    return _chosen


def computed_by(
    backend: str | None,
    values: Tensor,
    *,
    native: bool | Callable[[], bool] = False,
    triton: bool = False,
    fits_triton: bool = True,
    dtype: torch.dtype | None = None,
) -> Computer:
    """Who computes an op on ``values``: asked once, at its head.

    Args:
        backend: the op's own argument; None: what :func:`use_backend` or the environment says.
        native, triton: whether the op has such a kernel, and one for its other arguments. A function is asked where nothing is traced: a
            compiler would make a condition of the sizes that it looks at.
        fits_triton: whether the sizes are those that its Triton kernel is good at: else it runs only where it is asked for by name.
        dtype: what an op converts its arguments to before PyTorch's operators or the C kernels see them; None: they stay as they are.

    Returns:
        "formula": the readable form, which compilers, exports, transforms of ``torch.func`` and every kind of derivative follow.
        "torch": PyTorch's operators, with a backward by hand where the op has one.
        "native", "triton": that kernel.

    Raises:
        ValueError: for an unknown backend, or one that cannot run here.
    """
    if triton and takes_triton(backend, values, fits=fits_triton):
        return "triton"
    if is_traced():
        if native:
            _takes_native(backend, values, dtype, traced=True)  # which tells whoever asked for it
        return "formula"
    suits = native() if callable(native) else native
    return "native" if suits and _takes_native(backend, values, dtype, traced=False) else "torch"


def takes_triton(backend: str | None, values: Tensor, *, fits: bool = True) -> bool:
    """Whether an op on ``values`` goes to Triton; "auto" does so only where the kernel ``fits`` the sizes. Never with none: an empty batch
    is PyTorch's.

    Raises:
        ValueError: for an unknown backend, or "triton" where it cannot run.
    """
    name = _chosen if backend is None else backend
    if name in ("torch", "native"):
        return False
    if name == "auto":
        fits = fits and values.is_cuda and values.dtype is torch.bfloat16 and values.numel() > 0
        return fits and triton.available(values.device) and not is_transformed()
    if is_plain():
        return False
    require_choice("backend", name, BACKENDS)
    require(
        triton.available(values.device),
        f"backend='triton' needs triton (pip install 'subquadratic[triton]') and a CUDA device, got tensors on {values.device}; "
        "to try the kernels on a CPU set TRITON_INTERPRET=1 before Python starts",
    )
    require(
        not is_transformed(),
        "backend='triton' has no derivatives for torch.func and forward-mode differentiation: use backend='auto' or 'torch' there",
    )
    require(values.dtype != torch.float64, "backend='triton' computes in float32, float16 and bfloat16, got float64: use backend='torch'")
    return values.numel() > 0  # no grid has no programs


def takes_native(backend: str | None, values: Tensor) -> bool:
    """Whether an op on ``values`` goes to the C kernels, which an op without a kernel in C never does, nor one on no values.

    Raises:
        ValueError: for an unknown backend, or "native" where it cannot run.
    """
    return _takes_native(backend, values, values.dtype, traced=is_traced())


def _takes_native(backend: str | None, values: Tensor, dtype: torch.dtype | None, *, traced: bool) -> bool:
    name = _chosen if backend is None else backend
    dtype = values.dtype if dtype is None else dtype
    fits = values.device.type == "cpu" and dtype is torch.float32 and not traced
    if name == "auto":
        if not fits or values.numel() == 0:
            return False
        reason = why_not()
        if reason is not None:
            _warn_of(reason)
        return reason is None
    require_choice("backend", name, BACKENDS)
    if name != "native" or is_plain():
        return False
    require(
        not traced,
        "backend='native' computes outside of torch.compile, torch.func and forward-mode differentiation: use backend='auto' or 'torch' "
        "there",
    )
    require(fits, f"backend='native' computes in float32 on a CPU, got {dtype} on {values.device}")
    require(why_not() is None, f"backend='native' cannot run: {why_not()}")
    return values.numel() > 0


@functools.cache
def _warn_of(reason: str) -> None:
    """Once a process."""
    warnings.warn(
        f"PyTorch's operators compute, on a CPU often several times slower: {reason} (to be quiet: SUBQUADRATIC_BACKEND=torch)",
        RuntimeWarning,
        stacklevel=2,
    )


def are_float32(device: torch.device, tensors: Iterable[Tensor]) -> bool:
    """Whether all are float32 on this device: what a C kernel reads beside the values that :func:`takes_native` looks at."""
    return all(tensor.dtype is torch.float32 and tensor.device == device for tensor in tensors)
