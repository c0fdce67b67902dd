"""A tensor that has a shape and no memory, of which `costs/shape_run.py` computes what a model costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CPU = torch.device("cpu")


class ShapeOnly(Tensor):
    """Looks like a tensor on the CPU. `shape_of` is its twin on the device meta, `known` its numbers, where they are integers that follow
    from other known ones: positions, lengths and masks decide which way a model takes."""

    shape_of: Tensor
    known: Tensor | None

    @staticmethod
    def __new__(cls, twin: Tensor, known: Tensor | None = None) -> ShapeOnly:
        made = Tensor._make_wrapper_subclass(
            cls, twin.shape, strides=twin.stride(), storage_offset=twin.storage_offset(), dtype=twin.dtype, device=CPU
        )
        made.shape_of, made.known = twin, known
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{function} was called on a tensor without memory, outside of its run on shapes")
