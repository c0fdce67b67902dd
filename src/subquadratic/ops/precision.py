"""Where rounding matters, work in float32 (float64 stays float64), whatever autocast or the inputs say."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def exact_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 when any tensor is float64."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def no_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Context in which matmuls keep the dtype they are given."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)
