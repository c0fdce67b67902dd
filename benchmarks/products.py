"""What the matmuls of a training step take when nothing else runs: no step made of PyTorch's own products can be faster.

    python benchmarks/products.py                                    # the cases that `subq bench --suite targets` times
    python benchmarks/products.py --cases model/linformer-bidirectional/train/4096 --rounds 9
    python benchmarks/products.py --out benchmarks/results/cpu/products.md

The floor of `subq bench` counts operations at the best rate of large square matrices. Here every matmul and attention kernel of one step
is noted with its shapes and strides, and called again as often with random numbers, all of a shape in a row: operands are in caches that a
step would have to fill. In turns with the step itself, so that what else the machine does meets both alike.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from subquadratic.benchmark.cases import Case, registry, select
from subquadratic.benchmark.floor import work_of
from subquadratic.benchmark.models import build_model
from subquadratic.benchmark.work import Setting
from subquadratic.models.saving import replace_file
from subquadratic.ops.free_memory import keep_freed_memory

CASES = (
    "model/linformer-bidirectional/train/4096",
    "model/performer-bidirectional/train/4096",
    "model/fastformer-bidirectional/train/4096",
    "model/perceiver_ar/train/4096",
    "model/feedback_transformer/train/256x8",
    "model/performer/train/2048",
    "model/performer/train/16384",
    "model/fastformer-bidirectional/train/16384",
)
PRODUCTS = ("mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_", "_linear_pointwise")
ATTENTION = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward")
Signature = tuple[Any, tuple[Any, ...], tuple[tuple[str, Any], ...]]


class Noted(TorchDispatchMode):
    """Counts the products that are called, by what decides their time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Signature] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.overloadpacket.__name__ in PRODUCTS + ATTENTION:
            self.calls[function, _shapes(args), tuple((name, _shapes(value)) for name, value in sorted(kwargs.items()))] += 1
        return function(*args, **kwargs)


def _shapes(value: Any) -> Any:
    """Tensors as ("tensor", shape, strides, dtype); a list, which is not hashable, as a tuple."""
    if isinstance(value, Tensor):
        layout = None if value.is_mkldnn else value.stride()
        return ("tensor", tuple(value.shape), layout, value.dtype)
    return tuple(map(_shapes, value)) if isinstance(value, list | tuple) else value


def _again(value: Any) -> Any:
    """Undo :func:`_shapes`, with random numbers."""
    if not isinstance(value, tuple):
        return value
    if value[:1] != ("tensor",):
        return [_again(part) for part in value]
    _, shape, strides, dtype = value
    if strides is None:  # a weight in oneDNN's own layout, for few rows
        return torch.ops.mkldnn._reorder_linear_weight(torch.randn(shape, dtype=dtype), 8)
    once = [1 if stride == 0 else size for size, stride in zip(shape, strides, strict=True)]
    return torch.empty_strided(once, strides, dtype=dtype).normal_().expand(shape)


def replay(calls: Counter[Signature]) -> list[tuple[Signature, int, Callable[[], Any]]]:
    """Each kind of product, how often a step calls it, and a call of it."""
    found = []
    for signature, count in calls.items():
        function, args, kwargs = signature
        given, named = [_again(value) for value in args], {name: _again(value) for name, value in kwargs}
        if function.overloadpacket.__name__ == ATTENTION[1]:
            given = _real_attention(given)
        found.append((signature, count, lambda function=function, given=given, named=named: function(*given, **named)))
    return found


def _real_attention(given: list[Any]) -> list[Any]:
    """The arguments of a backward pass with an output and log-sums that belong to them: exp of random ones would overflow."""
    _, queries, keys, values, _, _, dropout, causal, *_ = given
    output, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values, dropout, causal)
    return [*given[:4], output, sums, *given[6:]]


def flops_of(signature: Signature) -> float:
    """Two for each multiply-add; 0 for attention kernels, which skip what is masked."""
    function, args, _ = signature
    name = function.overloadpacket.__name__
    if name in ATTENTION:
        return 0.0
    left, right = (args[1], args[2]) if name.startswith(("addmm", "baddbmm")) else (args[0], args[1])
    columns = right[1][0] if name == "_linear_pointwise" else right[1][-1]
    return 2.0 * torch.Size(left[1]).numel() * columns


def measure(case: Case, rounds: int) -> str:
    """One line of the table."""
    work = build_model(case.sides[0], case, Setting(), {})
    work.call()
    with Noted() as noted:
        work.call()
    products = replay(noted.calls)
    steps, alone = [], []
    for index in range(rounds + 1):
        began = time.perf_counter()
        work.call()
        middle = time.perf_counter()
        for _, count, call in products:
            for _ in range(count):
                call()
        if index:  # the first round warms up
            steps.append(middle - began)
            alone.append(time.perf_counter() - middle)
    share = statistics.median(part / whole for part, whole in zip(alone, steps, strict=True))
    counted = sum(count * flops_of(signature) for signature, count, _ in products)
    least = work_of(case.sides[0], case, length=case.length).training
    attention = any(signature[0].overloadpacket.__name__ in ATTENTION for signature, _, _ in products)
    rate = "" if attention else f"{counted / statistics.median(alone) / 1e9:.0f}"
    return (
        f"| {case.name} | {statistics.median(steps) * 1e3:,.0f} ms | {statistics.median(alone) * 1e3:,.0f} ms | {share:.0%} | {rate} | "
        f"{least / 1e9:.1f} | {'' if attention else f'{counted / 1e9:.1f}'} | {sum(noted.calls.values()):,} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="NAME", help="as `subq bench --list` shows them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args()
    cases = select(options.cases, registry())
    keep_freed_memory()
    lines = [
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, float32, {time.strftime('%Y-%m-%d')}",
        "",
        "| case | step | its products alone | share | GFLOP/s | GFLOP of the floor | GFLOP of the products | products |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines))
    for case in cases:
        lines.append(measure(case, options.rounds))
        print(lines[-1], flush=True)
    if options.out is not None:
        replace_file(options.out, lambda file: file.write_text("\n".join(lines) + "\n", encoding="utf-8"))


if __name__ == "__main__":
    main()
