"""What computes on this machine, and why nothing faster is used."""

from dataclasses import dataclass

import torch

from ..kernels import triton
from ..kernels.native import library
from .backend import chosen_backend


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """What computes in this process; as a text, one line."""

    backend: str
    """What ``use_backend`` or SUBQUADRATIC_BACKEND chose: "auto", "torch", "native" or "triton"."""
    native: str | None
    """The variant of the C kernels, such as "x86-64-v4"; None: there are none."""
    why_not_native: str | None
    """Why there are no C kernels; None: there are."""
    better: str | None
    """A faster variant that this processor could run but this installation lacks."""
    made_by: str | None
    """The compiler of the C kernels."""
    triton: bool
    """Whether Triton kernels can run: the extra `triton`, and a GPU."""
    gpu: str | None
    """The GPU that PyTorch sees."""
    torch: str
    """PyTorch's version, with its build."""
    threads: int
    """Threads of PyTorch, and of the C kernels."""

    def __str__(self) -> str:
        rest = f"PyTorch {self.torch}, {self.threads} thread{'s' * (self.threads != 1)}"
        if self.gpu is not None:
            rest += f", {self.gpu} with{'' if self.triton else 'out'} Triton kernels"
        if self.backend == "torch":
            return f"{rest}; no kernels, since the backend chosen is 'torch'"
        if self.native is None:
            return f"{rest}; no C kernels: {self.why_not_native}"
        lacks = "" if self.better is None else f"; this processor could run those for {self.better}, which were not installed"
        return f"{rest}; C kernels for {self.native}{lacks}"


def backend_info() -> BackendInfo:
    """What computes here: PyTorch's operators, C kernels on a CPU in float32, Triton kernels on a GPU in bfloat16.

    >>> print(subquadratic.backend_info())
    PyTorch 2.13.0+cpu, 2 threads; C kernels for x86-64-v4
    """
    has_gpu, reason = torch.cuda.is_available(), library.why_not()
    return BackendInfo(
        backend=chosen_backend(),
        native=library.variant(),
        why_not_native=reason,
        better=library.better_variant(),
        made_by=None if reason is not None else library.made_by(),
        triton=triton.available(torch.device("cuda" if has_gpu else "cpu")),
        gpu=torch.cuda.get_device_name() if has_gpu else None,
        torch=str(torch.__version__),
        threads=torch.get_num_threads(),
    )
