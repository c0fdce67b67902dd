"""In which precision a run computes its forward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from ..core.backend import chosen_backend
from ..core.backend_info import backend_info
from ..kernels.native.processor import processor_flags

BFLOAT16 = "avx512_bf16"  # products of bfloat16 at twice the rate of float32's
MATRIX_UNIT = "amx_bf16"  # of which the C kernels make float32, too


def trains_in_bfloat16(precision: str) -> bool:
    """Whether products are in bfloat16, under PyTorch's autocast.

    Args:
        precision: "float32", "bfloat16", or "auto": bfloat16 on a GPU that has it, and on a CPU with AVX512-BF16, where a step of the
            default models takes 0.67 to 0.77 of the time (AMD Zen 5). Not with AMX: there the C kernels multiply float32 by the matrix
            unit, too.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    flags = processor_flags()
    return BFLOAT16 in flags and MATRIX_UNIT not in flags and chosen_backend() != "torch"


def forward_precision(precision: str) -> AbstractContextManager[None]:
    """The context of a forward pass."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(kind, torch.bfloat16, enabled=trains_in_bfloat16(precision))


def computes(precision: str) -> str:
    """What computes a run, in a line."""
    return f"{backend_info()}{'; products in bfloat16' if trains_in_bfloat16(precision) else ''}"
