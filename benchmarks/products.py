"""What the matmuls of a training step take when nothing else runs: no step made of PyTorch's own products can be faster.

    python benchmarks/products.py                                    # the training steps that `subq bench --suite targets` times
    python benchmarks/products.py --cases model/linformer-bidirectional/train/4096 --rounds 9
    python benchmarks/products.py --out benchmarks/results/cpu/products.md

The floor of `subq bench` counts operations at the best rate of large square matrices. Here every matmul and attention kernel of one step
by PyTorch's operators is noted, and called again in the step's order on random numbers laid out as they were there: what was one tensor is
one tensor, so that caches hold no more than they do in a step. Once the products alone, once with the functions that the papers' formulas
name (softmax, exp, GELU, layer norms) and their gradients, interleaved with the step itself, which C kernels may do, and with what it is
compared to. There are no sums, no copies, no optimizer and little Python in either. *Of the floor* is the share that the step reaches, *of
products* what its products alone would.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from subquadratic.benchmark.cases import Case, is_ours, label
from subquadratic.benchmark.competitors import build
from subquadratic.benchmark.floor import work_of
from subquadratic.benchmark.machine import heading, measure_rates
from subquadratic.benchmark.suites import registry, select, suite
from subquadratic.benchmark.timing import interleave, median, ratios
from subquadratic.benchmark.work import Setting
from subquadratic.core.backend import use_backend
from subquadratic.core.free_memory import keep_freed_memory
from subquadratic.heads.files import replace_file

PRODUCTS = ("mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_", "_linear_pointwise")
ATTENTION = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward")
FUNCTIONS = ("exp", "exp_", "exp2", "exp2_", "gelu", "gelu_backward", "native_layer_norm", "native_layer_norm_backward", "sigmoid")
FUNCTIONS += ("softmax", "_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data")
COLUMNS = ("case", "step", "products", "share", "with functions", "share", "beside it", "takes", "x step", "x products", "x with functions")
COLUMNS += ("GFLOP of the floor", "of the floor", "of products", "GFLOP of the products", "calls")

Key = tuple[Any, ...]  # "tensor", shape, strides, dtype, address
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]  # a function and its arguments, keys for tensors


class Noted(TorchDispatchMode):
    """Keeps what products and functions are called with: shapes, strides, and which memory."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _name(function) in PRODUCTS + ATTENTION + FUNCTIONS:
            self.calls.append((function, _noted(args), {name: _noted(value) for name, value in kwargs.items()}))
        return function(*args, **kwargs)


def _name(function: Any) -> str:
    return function.overloadpacket.__name__


def _noted(value: Any) -> Any:
    """A tensor's key, a list as a tuple."""
    if isinstance(value, Tensor):
        layout = (None, id(value)) if value.is_mkldnn else (value.stride(), value.data_ptr())
        return ("tensor", tuple(value.shape), layout[0], value.dtype, layout[1])
    return tuple(map(_noted, value)) if isinstance(value, list | tuple) else value


def replay(noted: Noted, *, functions: bool) -> Callable[[], None]:
    """The same calls in their order, without what lies between them."""
    calls = [call for call in noted.calls if functions or _name(call[0]) not in FUNCTIONS]
    tensors = _laid_out({key for _, args, kwargs in calls for key in _keys((args, *kwargs.values()))})
    ready = [_prepare(call, tensors) for call in calls]

    def run() -> None:
        for function, args, kwargs in ready:
            function(*args, **kwargs)

    return run


def _keys(value: Any) -> Iterator[Key]:
    if isinstance(value, tuple):
        yield from [value] if value[:1] == ("tensor",) else itertools.chain.from_iterable(map(_keys, value))


def _laid_out(keys: set[Key]) -> dict[Key, Tensor]:
    """Random tensors that share memory where those did."""
    found, spans = {}, []
    for key in keys:
        _, shape, strides, dtype, address = key
        if strides is None:  # a weight in oneDNN's own layout, for few rows
            found[key] = torch.ops.mkldnn._reorder_linear_weight(torch.randn(shape, dtype=dtype), 8)
        else:
            last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            spans.append((address, address + (last + 1) * dtype.itemsize, key))
    spans.sort(key=lambda span: span[0])
    while spans:
        begin, end, count = *spans[0][:2], 0
        while count < len(spans) and spans[count][0] < end:
            end, count = max(end, spans[count][1]), count + 1
        numbers = torch.randn((end - begin) // 4)
        for address, _, key in spans[:count]:
            found[key] = numbers.view(key[3]).as_strided(key[1], key[2], (address - begin) // key[3].itemsize)
        spans = spans[count:]
    return found


def _prepare(call: Call, tensors: dict[Key, Tensor]) -> tuple[Any, list[Any], dict[str, Any]]:
    """What is written has a place of its own: numbers that went through the same maps again and again would grow without bound."""
    function, args, kwargs = call[0], [_again(value, tensors) for value in call[1]], {k: _again(v, tensors) for k, v in call[2].items()}
    if _name(function) in ("exp_", "exp2_"):
        function, kwargs = getattr(torch.ops.aten, _name(function)[:-1]).out, {"out": args[0]}
    places = ((name, value, call[2].get(name, call[1][0])) for name, value in kwargs.items() if isinstance(value, Tensor))
    kwargs |= {name: tensors.setdefault(("written", key), torch.empty_like(value)) for name, value, key in places}
    return function, _real_attention(args) if _name(function) == ATTENTION[1] else args, kwargs


def _again(value: Any, tensors: dict[Key, Tensor]) -> Any:
    if not isinstance(value, tuple):
        return value
    return tensors[value] if value[:1] == ("tensor",) else [_again(part, tensors) for part in value]


def _real_attention(given: list[Any]) -> list[Any]:
    """The arguments of a backward pass with an output and log-sums that belong to them: exp of random ones would overflow."""
    _, queries, keys, values, _, _, dropout, causal, *_ = given
    output, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values, dropout, causal)
    return [*given[:4], output, sums, *given[6:]]


def flops_of(call: Call) -> float:
    """Two for each multiply-add of a product; 0 for attention kernels, which skip what is masked, and for functions."""
    function, args, _ = call
    name = _name(function)
    if name not in PRODUCTS:
        return 0.0
    left, right = (args[1], args[2]) if name.startswith(("addmm", "baddbmm")) else (args[0], args[1])
    columns = right[1][0] if name == "_linear_pointwise" else right[1][-1]
    return 2.0 * torch.Size(left[1]).numel() * columns


def measure(case: Case, side: str, rounds: int) -> str:
    """One line of the table: one of our sides, and the last side of the case beside it."""
    setting, shared, other = Setting(), {}, case.sides[-1]
    step = build(side, case, setting, shared).call
    step()
    with use_backend("torch"), Noted() as noted:  # what the C kernels do would be noted as calls of theirs
        step()
    calls = {"step": step, "products": replay(noted, functions=False), "functions": replay(noted, functions=True)}
    if not is_ours(other):
        calls["other"] = build(other, case, setting, shared).call
    rates = [measure_rates().flops]
    found = interleave(calls, rounds=rounds, budget=float("inf")).seconds
    rates.append(measure_rates().flops)

    def times(name: str, over: str) -> float | None:
        return median(ratios(found[over], found[name])) if name in found else None

    cells = [case.name if side == case.sides[0] else f"{case.name}: {side}", _seconds(found["step"])]
    for name in ("products", "functions"):
        cells += [_seconds(found[name]), f"{times(name, over='step'):.0%}"]
    cells += [label(other, case), _seconds(found["other"])] if "other" in found else ["", ""]
    cells += ["" if (value := times("other", over=name)) is None else f"{value:.2f}" for name in ("step", "products", "functions")]
    attention = any(_name(function) in ATTENTION for function, _, _ in noted.calls)
    counted = "" if attention else f"{sum(map(flops_of, noted.calls)) / 1e9:.1f}"
    floor = work_of(side, case, length=case.length).training
    shares = [f"{floor / max(rates) / median(found[name]):.0%}" for name in ("step", "products")]
    cells += [f"{floor / 1e9:.1f}", *shares, counted, f"{len(noted.calls):,}"]
    return f"| {' | '.join(cells)} |"


def _seconds(readings: list[float]) -> str:
    return f"{median(readings) * 1e3:,.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="as `subq bench --list` shows them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args()
    cases = suite("targets") if options.cases is None else select(options.cases, registry())
    keep_freed_memory()
    lines = [
        heading(),
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|---|---:|---:|---:|---:|---:|---|{'---:|' * 9}",
    ]
    print("\n".join(lines))
    for case in cases:
        for side in case.sides if case.mode == "train" and case.kind == "model" else ():
            if is_ours(side):
                lines.append(measure(case, side, options.rounds))
                print(lines[-1], flush=True)
    if options.out is not None:
        replace_file(options.out, lambda file: file.write_text("\n".join(lines) + "\n", encoding="utf-8"))


if __name__ == "__main__":
    main()
