"""The loops of a feedback recurrence by the C kernels: float32 on a CPU, widths that are multiples of 16.

Axes: B batch, N tokens, D width, L layers, G key-value maps, H heads, K head width, F inner width, F' width of the expanding map, S keys of
a window, T places of the line.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .library import library
from .tensors import LONG, POINTER

MULTIPLE = 16  # of which widths must be multiples: the most lanes that a vector has
PANEL = 48  # at most, as in feedback.h
MAPS = ("query", "output", "expand", "contract")
LAYER_POINTERS = ("norm_weight", "norm_bias", "inner_weight", "inner_bias", "output_bias", "expand_bias", "contract_bias")
SIZES: tuple[str, ...] = ("batch", "length", "dim", "depth", "heads", "width", "groups", "inner", "expanded", "places", "lead", "window")
SIZES += ("hiding", "made", "keep", "threads")


class Weight(ctypes.Structure):
    """``weight`` of feedback.h."""

    _fields_ = [("at", POINTER), *((name, LONG) for name in ("out", "in", "outs", "ins")), ("panels", POINTER)]


class Layer(ctypes.Structure):
    """``layer`` of feedback.h."""

    _fields_ = [*((name, POINTER) for name in LAYER_POINTERS), *((name, Weight) for name in MAPS)]


class Feedback(ctypes.Structure):
    """``feedback`` of feedback.h."""

    _fields_ = [
        *((name, LONG) for name in SIZES),
        *((name, ctypes.c_float) for name in ("layer_epsilon", "scale_epsilon", "minus")),
        *((name, POINTER) for name in ("begin", "at", "cut", "empty", "mixture", "norm_weight", "norm_bias", "bias")),
        ("key_value", Weight),
        ("layers", ctypes.POINTER(Layer)),
        *((name, POINTER) for name in ("line", "hidden", "middle", "queries", "attended", "weights", "before", "active", "merged")),
        *((name, POINTER) for name in ("steps", "outputs", "d_y", "d_hidden", "d_middle", "d_queries", "d_attended", "d_inner")),
        *((name, POINTER) for name in ("d_normed", "d_expanded", "d_merged", "d_memory", "d_made", "d_line", "d_bias")),
    ]  # fmt: skip


class Call:
    """Arguments of one call, and all that they point to."""

    def __init__(self) -> None:
        self._held: list[Any] = []

    def pointer(self, tensor: Tensor | None) -> int | None:
        """Where a tensor's numbers lie, from now on for the length of the call."""
        if tensor is None:
            return None
        assert tensor.is_contiguous()
        self._held.append(tensor)
        return tensor.data_ptr()

    def weight(self, tensor: Tensor) -> Weight:
        """A map (O, I), which may be a transposed view."""
        outs, ins = tensor.shape
        panels = tensor.new_empty((outs + 2 * PANEL) * ins)
        self._held += [tensor, panels]
        return Weight(tensor.data_ptr(), *tensor.stride(), outs, ins, panels.data_ptr())

    def layer(self, maps: Sequence[Tensor], **pointers: Tensor | None) -> Layer:
        """Of its maps in the order of ``MAPS``, and norms and biases."""
        found = {name: self.pointer(None if tensor is None else tensor.contiguous()) for name, tensor in pointers.items()}
        return Layer(**found, **{name: self.weight(tensor) for name, tensor in zip(MAPS, maps, strict=True)})

    def run(self, name: str, layers: list[Layer], key_value: Tensor, **arguments: Any) -> None:
        """Call ``name`` with the fields of :class:`Feedback` that are given: tensors, lists of integers, and numbers."""
        found: dict[str, Any] = {"layers": (Layer * len(layers))(*layers), "key_value": self.weight(key_value)}
        for field, value in arguments.items():
            if isinstance(value, list):
                value = torch.tensor(value, dtype=torch.int64)
            found[field] = self.pointer(value) if isinstance(value, Tensor) else value
        getattr(library(), name)(ctypes.byref(Feedback(threads=torch.get_num_threads(), **found)))
