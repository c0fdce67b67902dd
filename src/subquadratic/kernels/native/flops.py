"""Floating-point operations of the C kernels' operators, for `torch.utils.flop_counter.FlopCounterMode`.

That module imports Triton where there is one, a quarter of a second: the formulas are given to it when somebody imports it, not before.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

COUNTER = "torch.utils.flop_counter"
MULTIPLY_ADDS: dict[str, Callable[..., int]] = {}  # of an operator, by its name, how many its arguments ask for


def count_work(operator: str, work: Callable[..., int]) -> None:
    """Have PyTorch's counter know an operator of `subquadratic` that does ``work(*arguments)`` multiply-adds."""
    MULTIPLY_ADDS[f"subquadratic::{operator}"] = work
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER], operator, work)


def _register(counter: ModuleType, operator: str, work: Callable[..., int]) -> None:
    counter.register_flop_formula(getattr(torch.ops.subquadratic, operator), get_raw=True)(_formula(work))


def _register_all(counter: ModuleType) -> None:
    for name, work in MULTIPLY_ADDS.items():
        _register(counter, name.partition("::")[2], work)
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
        _register_all(module)


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
        _register_all(sys.modules[COUNTER])
    else:
        sys.meta_path.insert(0, _Finder())
