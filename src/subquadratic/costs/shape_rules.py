"""Shapes of the results of common operators, where PyTorch's own rules are written in Python: those bring its compiler, and take longer
than all the rest of a run on shapes.

A rule is asked with tensors on the device meta, and gives what the operator would: shapes, dtypes and strides as on the CPU. None: PyTorch
is to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
BOOLEAN = {
    aten.eq,
    aten.ne,
    aten.lt,
    aten.le,
    aten.gt,
    aten.ge,
    aten.isnan,
    aten.isinf,
    aten.logical_and,
    aten.logical_or,
    aten.logical_not,
}

ARITHMETIC = {aten.add, aten.sub, aten.rsub, aten.mul, aten.div, aten.floor_divide, aten.remainder}
ARITHMETIC |= {aten.maximum, aten.minimum} | {aten.clamp_min, aten.clamp_max}
CHOOSING = {aten.where, aten.masked_fill, aten.clamp}
CHANGING = ("resize", "resize_as", "set", "t", "transpose", "squeeze", "unsqueeze", "as_strided", "swapaxes")
RESHAPING = {f"aten::{name}_" for name in CHANGING}


def result_of(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result, or None where no rule is sure of it."""
    if "out" in kwargs:
        return kwargs["out"]
    rule = RULES.get(function)
    if rule is not None:
        return rule(*args, **kwargs)
    name = function._schema.name
    if name.endswith("_") and not name.endswith("__") and name not in RESHAPING:
        return args[0]
    if torch.Tag.pointwise in function.tags:
        return _pointwise(function, args)
    return None


def empty(shape: Sequence[int], like: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """A dense tensor on the device meta."""
    return torch.empty(shape, dtype=dtype or like.dtype, device="meta")


def laid_out_like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Without gaps, and with the dimensions of ``x`` in the order in which they lie, as the CPU's kernels do it."""
    strides, step = [0] * x.dim(), 1
    for dim in sorted(range(x.dim()), key=lambda dim: (x.stride(dim), -dim)):
        strides[dim] = step
        step *= x.shape[dim]
    return torch.empty_strided(x.shape, strides, dtype=dtype, device="meta")


def _pointwise(function: Any, args: Sequence[Any]) -> Tensor | None:
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    dtype = torch.bool if function._overloadpacket in BOOLEAN else _type(function, args, tensors)
    if dtype is None:
        return None
    shape = tensors[0].shape
    if any(tensor.shape != shape for tensor in tensors):
        columns = list(zip_longest(*(reversed(tensor.shape) for tensor in tensors), fillvalue=1))
        sizes = [next((size for size in column if size != 1), 1) for column in reversed(columns)]
        if any(size not in (1, found) for column, found in zip(reversed(columns), sizes, strict=True) for size in column):
            return None  # PyTorch says that they do not fit
        shape = torch.Size(sizes)
    first = next((tensor for tensor in tensors if tensor.shape == shape), None)
    if first is not None and not first.is_contiguous():
        return laid_out_like(first, dtype)
    return torch.empty(shape, dtype=dtype, device="meta")


def _type(function: Any, args: Sequence[Any], tensors: Sequence[Tensor]) -> torch.dtype | None:
    """Of a result: that of all floating-point numbers that go in, where they are of one; booleans choose among them."""
    kinds = {tensor.dtype for tensor in tensors if tensor.dtype is not torch.bool}
    if len(kinds) == 1 and (kind := next(iter(kinds))).is_floating_point:
        return kind
    if len(kinds) == 1 and function._overloadpacket in CHOOSING and not any(isinstance(arg, float) for arg in args):
        return kind
    if not kinds and function._overloadpacket in (aten.bitwise_not, aten.bitwise_and, aten.bitwise_or):
        return torch.bool
    if function._overloadpacket not in ARITHMETIC or len(args) != 2:
        return None  # types mix in ways that PyTorch knows
    kind = torch.result_type(*args)
    return torch.get_default_dtype() if function is aten.div.Tensor and not kind.is_floating_point else kind


def _clone(x: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor:
    kept = memory_format is None or memory_format is torch.preserve_format
    return laid_out_like(x, x.dtype) if kept and not x.is_contiguous() else empty(x.shape, x)


def _like(x: Tensor, *_: Any, dtype: torch.dtype | None = None, memory_format: Any = None, **__: Any) -> Tensor | None:
    if memory_format not in (None, torch.preserve_format):
        return None
    return laid_out_like(x, dtype or x.dtype)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    if not first.dim() or any(x.dtype is not first.dtype or x.dim() != first.dim() for x in tensors):
        return None
    if first.dim() == 4 and any(not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last) for x in tensors):
        return None
    shape = list(first.shape)
    shape[dim] = sum(x.shape[dim] for x in tensors)
    return empty(shape, first)


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    if any(x.dtype is not first.dtype for x in tensors):
        return None
    shape = list(first.shape)
    shape.insert(dim % (first.dim() + 1), len(tensors))
    return empty(shape, first)


def _qr(x: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor] | None:
    if mode != "reduced":
        return None
    *batch, rows, columns = x.shape
    inner = min(rows, columns)
    return empty((*batch, inner, rows), x).mT, empty((*batch, columns, inner), x).mT  # columns lie one after the other


def _alike(x: Tensor, *_: Any) -> Tensor:
    return empty(x.shape, x)


def _embedding(table: Tensor, tokens: Tensor, *_: Any) -> Tensor:
    return empty((*tokens.shape, table.shape[1]), table)


def _sort(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return laid_out_like(x, x.dtype), laid_out_like(x, torch.int64)


def _index(x: Tensor, places: Sequence[Tensor | None]) -> Tensor | None:
    first = places[0]
    if len(places) != 1 or first is None or first.dtype is torch.bool:
        return None
    return empty((*first.shape, *x.shape[1:]), x)


def _pad(x: Tensor, sizes: Sequence[int], value: float = 0) -> Tensor:
    shape = list(x.shape)
    for index in range(0, len(sizes), 2):
        shape[-1 - index // 2] += sizes[index] + sizes[index + 1]
    return empty(shape, x)


def _arange(end: int, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor | None:
    return torch.empty(end, dtype=dtype or torch.int64, device="meta") if isinstance(end, int) else None


def _mm(x: Tensor, y: Tensor) -> Tensor:
    return empty((*x.shape[:-1], y.shape[-1]), x)


def _gather(x: Tensor, dim: int, places: Tensor, **_: Any) -> Tensor:
    return empty(places.shape, x)


def _attention(queries: Tensor, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    batch, heads, length = queries.shape[:3]
    sums = torch.empty((batch, length, heads), dtype=torch.promote_types(queries.dtype, torch.float32), device="meta")
    return laid_out_like(queries, queries.dtype), sums.transpose(1, 2)


def _attention_backward(d_output: Tensor, *given: Any, **_: Any) -> tuple[Tensor, ...]:
    found = []
    for x in given[:3]:
        batch, heads, length, width = x.shape
        found.append(empty((batch, length, heads, width), x).transpose(1, 2))
    return tuple(found)


def _addmm(bias: Tensor, x: Tensor, y: Tensor, **_: Any) -> Tensor:
    return empty((x.shape[0], y.shape[1]), x)


def _layer_norm(x: Tensor, shape: Sequence[int], weight: Any, bias: Any, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    statistics = (*x.shape[: x.dim() - len(shape)], *(1 for _ in shape))
    return empty(x.shape, x), empty(statistics, x), empty(statistics, x)


def _layer_norm_backward(
    d_y: Tensor, x: Tensor, shape: Sequence[int], mean: Tensor, deviation: Tensor, weight: Any, bias: Any, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    found = (x, weight, bias)
    return tuple(empty(y.shape, y) if want and y is not None else None for y, want in zip(found, wanted, strict=True))


def _reduced(x: Tensor, dims: Sequence[int] | int | None = None, keep: bool = False, *, dtype: torch.dtype | None = None) -> Tensor | None:
    if not x.is_floating_point() and dtype is None:
        return None
    every = range(x.dim()) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = {dim % max(x.dim(), 1) for dim in every}
    shape = [1 if dim in gone else size for dim, size in enumerate(x.shape) if keep or dim not in gone]
    return empty(shape, x, dtype=dtype)


def _any(x: Tensor, *dims: Any) -> Tensor:
    return _reduced(x, *dims, dtype=torch.bool)  # type: ignore[return-value]


def _norm(x: Tensor, order: Any = 2, dims: Any = None, keep: bool = False, *, dtype: torch.dtype | None = None) -> Tensor | None:
    return _reduced(x, dims, keep, dtype=dtype)


RULES: dict[Any, Callable[..., Any]] = {
    aten.addmm.default: _addmm,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward,
    aten.arange.default: _arange,
    aten.bmm.default: _mm,
    aten.gather.default: _gather,
    aten.index_put.default: _like,
    aten.select_backward.default: lambda gradient, sizes, *_: empty(sizes, gradient),
    aten.slice_backward.default: lambda gradient, sizes, *_: empty(sizes, gradient),
    aten.mm.default: _mm,
    aten.constant_pad_nd.default: _pad,
    aten.replication_pad1d.default: _pad,
    aten.replication_pad1d_backward.default: lambda gradient, x, _: _alike(x),
    aten.scatter_add.default: lambda x, *_: _clone(x),
    aten.log_sigmoid_forward.default: lambda x: (_like(x), _like(x)),
    aten.log_sigmoid_backward.default: lambda gradient, x, buffer: _pointwise(aten.mul.Tensor, (gradient, x)),
    aten.flip.default: _like,
    aten.index.Tensor: _index,
    aten.cat.default: _cat,
    aten.clone.default: _clone,
    aten.embedding.default: _embedding,
    aten.empty_like.default: _like,
    aten.full_like.default: _like,
    aten.ones_like.default: _like,
    aten.zeros_like.default: _like,
    aten.linalg_qr.default: _qr,
    aten.sort.default: _sort,
    aten.sort.stable: _sort,
    aten.stack.default: _stack,
    aten.tril.default: _alike,
    aten.triu.default: _alike,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
    aten.linalg_vector_norm.default: _norm,
    aten.sum.dim_IntList: _reduced,
    aten.any.default: _any,
    aten.any.dim: _any,
    aten.all.default: _any,
    aten.all.dim: _any,
    aten._safe_softmax.default: _alike,
    aten._softmax.default: lambda x, dim, half_to_float: None if half_to_float else _alike(x),
    aten._softmax_backward_data.default: _alike,
    aten.cumsum.default: lambda x, *dim: _alike(x) if x.is_floating_point() else None,
    aten.floor_divide.default: lambda x, y: _pointwise(aten.floor_divide.default, (x, y)),
    aten.mean.dim: _reduced,
    aten.amax.default: _reduced,
}
