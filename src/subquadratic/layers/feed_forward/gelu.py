"""GELU (arXiv 1606.08415), for a few numbers too."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.backend import is_traced
from ...core.tracing import needs_gradient

FEW_NUMBERS = 8192  # what PyTorch's own loop takes less time for than oneDNN to begin


def gelu(x: Tensor) -> Tensor:
    """As ``torch.nn.functional.gelu``, exact. PyTorch hands contiguous numbers on a CPU to oneDNN, which takes ten microseconds to begin;
    numbers that lie otherwise it works on itself."""
    if torch.compiler.is_compiling():  # before a look at sizes, which an export may leave open
        return F.gelu(x)
    if x.numel() > FEW_NUMBERS or x.device.type != "cpu" or x.numel() % 2 or not x.is_contiguous() or is_traced() or needs_gradient(x):
        return F.gelu(x)
    return F.gelu(x.view(2, -1).T).T.view(x.shape)
