"""Where rounding matters, work in float32 (float64 stays float64), whatever autocast or the inputs say."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from .tracing import is_open

EMPTY = -1e30  # the maximum of no exponents: finite, so that differences are never NaN
HIDDEN = -1e30  # what is added to the logit of a key that may not be seen: finite, so that a query with nothing to see gets no NaN
NOTHING = 1e-24  # a normaliser below this has no key to speak of: the output is zero, and so is its gradient
LOG2E = math.log2(math.e)


def exact_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 when any tensor is float64."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor.dtype is not dtype:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def running_maximum(x: Tensor, *, dim: int = -1) -> Tensor:
    """The largest of all up to each place: ``x.cummax(dim).values``. An export of a known length gets it by doubling, since ONNX has no
    running maximum; both are exact."""
    length = x.shape[dim]
    if not torch.compiler.is_exporting() or is_open(length):
        return x.cummax(dim=dim).values
    step = 1
    while step < length:
        first, later, earlier = x.narrow(dim, 0, step), x.narrow(dim, step, length - step), x.narrow(dim, 0, length - step)
        x = torch.cat((first, torch.maximum(later, earlier)), dim=dim)
        step *= 2
    return x


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64: Apple's GPUs do not, nor do some of Intel's."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def no_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Context in which matmuls keep the dtype they are given."""
    kind = tensor.device.type
    on = kind != "meta" and torch.is_autocast_enabled(kind)  # autocast knows no meta device
    return torch.autocast(device_type=kind, enabled=False) if on else nullcontext()


def is_narrow_on_cpu(tensor: Tensor) -> bool:
    """Whether attention to this had better be computed in float32: its exponentials and sums are float32's anyway, the C kernels have no
    other dtype, and PyTorch's backward takes four times as long in bfloat16. Compilers and exports keep the dtype that they see."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float16, torch.bfloat16) and not torch.compiler.is_compiling()


def in_float32(attend: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``attend`` of the tensors in float32, in the dtype of the last of them."""
    with no_autocast(tensors[-1]):
        return attend(*(tensor.float() for tensor in tensors)).to(tensors[-1].dtype)


class Float32Buffers(nn.Module):
    """A module whose buffers stay float32 at least, whatever dtype the model gets: their rounding errors add up."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            if buffer is not None and buffer.dtype in (torch.float16, torch.bfloat16):
                kept: Any = before[name]
                self._buffers[name] = kept.to(device=buffer.device, dtype=torch.float32)
        return self
