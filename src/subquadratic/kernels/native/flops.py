"""Floating-point operations of the C kernels' operators, for `torch.utils.flop_counter.FlopCounterMode`.

That module imports Triton where there is one, a quarter of a second: the formulas are given to it when somebody imports it, not before.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .work import MULTIPLY_ADDS

PACKAGE = __package__.partition(".")[0]
COUNTER = "torch.utils.flop_counter"
KERNELS = (
    "attention.softmax.native_operators",
    "attention.additive.native_mean_operators",
    "attention.additive.native_running_operators",
    "attention.low_rank.native_operators",
    "attention.feedback.native_operators",
    "attention.favor.native_operators",
    "attention.favor.native_step",
    *(f"layers.{name}.native_operators" for name in ("feed_forward", "linear")),
)


def _register(counter: ModuleType) -> None:
    for kernel in KERNELS:  # so that their operators are there
        importlib.import_module(f"{PACKAGE}.{kernel}")
    for name, count in MULTIPLY_ADDS.items():
        packet = getattr(torch.ops.subquadratic, name.partition("::")[2])
        counter.register_flop_formula(packet, get_raw=True)(_formula(count))
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # by which layers/linear/op.py multiplies on AMD
    if onednn is not None and onednn not in counter.flop_registry:
        counter.register_flop_formula(onednn, get_raw=True)(_formula(_linear))


def _formula(count: Callable[..., int]) -> Callable[..., int]:
    def flops(*arguments: Any, out_val: Any = None, **options: Any) -> int:
        return 2 * count(*arguments, **options)

    return flops


def _linear(x: Tensor, weight: Tensor, *_: Any) -> int:
    return x.numel() * weight.shape[0]


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds PyTorch's counter as it would be found, once, and registers the formulas behind its import."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != COUNTER or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def count_when_asked() -> None:
    """Have PyTorch's counter know the kernels, whether it is imported already or will be."""
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER])
    else:
        sys.meta_path.insert(0, _Finder())
