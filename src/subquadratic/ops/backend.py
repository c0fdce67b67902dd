"""Who computes a causal summary: PyTorch's own operators, or the Triton kernels of `subquadratic.kernels`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .. import kernels
from .errors import require, require_choice

BACKENDS = ("auto", "torch", "triton")
_chosen = "auto"


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within this context every op whose own ``backend`` is None takes this one.

    Args:
        name: "auto" (the default): Triton on a CUDA device for bfloat16, where it is installed; else PyTorch. "torch" or
            "triton": always that one.

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


def takes_triton(backend: str | None, values: Tensor, *, fits: bool = True) -> bool:
    """Whether an op on ``values`` goes to Triton; "auto" does so only where the kernel ``fits`` the sizes.

    Raises:
        ValueError: for an unknown backend, or "triton" where it cannot run.
    """
    name = _chosen if backend is None else backend
    if name == "torch":
        return False
    if name == "auto":
        return fits and values.is_cuda and values.dtype is torch.bfloat16 and kernels.available(values.device)
    require_choice("backend", name, BACKENDS)
    require(
        kernels.available(values.device),
        f"backend='triton' needs triton (pip install 'subquadratic[triton]') and a CUDA device, got tensors on {values.device}; "
        "to try the kernels on a CPU set TRITON_INTERPRET=1 before Python starts",
    )
    require(values.dtype != torch.float64, "backend='triton' computes in float32, float16 and bfloat16, got float64: use backend='torch'")
    return True


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether autograd will ask for a backward of an op on these."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_traced() -> bool:
    """Whether a compiler, an export or a transform of ``torch.func`` follows the operations: a backward by hand cannot go there."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
