"""A feed-forward layer by its C kernel, compared with PyTorch's two linear layers and a GELU, from memory that no core's cache holds.

    python benchmarks/feed_forward.py > benchmarks/results/cpu-intel/feed_forward.md
    python benchmarks/feed_forward.py --rows 4096 --dim 256

Medians of interleaved rounds; not by `subquadratic.benchmark.timing`, whose readings repeat a short call, in warm caches.
"""

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from subquadratic.benchmark.machine import heading
from subquadratic.benchmark.timing import median
from subquadratic.core.backend import use_backend
from subquadratic.core.free_memory import keep_freed_memory
from subquadratic.layers.feed_forward.layer import FeedForward

T = TypeVar("T")
COLD = 20_000_000  # numbers that are gone through between two calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 4096, 16384])
    parser.add_argument("--dim", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    keep_freed_memory()
    print(f"{heading()}\n")
    print("| rows | width | forward: PyTorch | kernel | backward: PyTorch | kernel | rate of the kernel |\n|" + "---:|" * 7)
    for dim in given.dim:
        for rows in given.rows:
            times = measure(rows, dim, given.rounds)
            forward, backward = times["native", "forward"], times["native", "backward"]
            rate = 6 * 2 * rows * dim * 4 * dim / (forward + backward) / 1e9  # six products
            shown = (times["torch", "forward"], forward, times["torch", "backward"], backward)
            print(f"| {rows:,} | {dim} | " + " | ".join(f"{1e3 * each:.1f} ms" for each in shown) + f" | {rate:.0f} GFLOP/s |", flush=True)


def measure(rows: int, dim: int, rounds: int) -> dict[tuple[str, str], float]:
    """Seconds of a call, by backend and direction."""
    layer, x, towards = FeedForward(dim), torch.randn(1, rows, dim, requires_grad=True), torch.randn(1, rows, dim)
    cold, times = torch.randn(COLD), {(name, way): list[float]() for name in ("torch", "native") for way in ("forward", "backward")}

    def timed(name: str, way: str, call: Callable[[], T]) -> T:
        cold.mul_(1.0)
        began = time.perf_counter()
        result = call()
        times[name, way].append(time.perf_counter() - began)
        return result

    leaves = [x, *layer.parameters()]
    for _ in range(rounds):
        for name in ("torch", "native"):
            with use_backend(name):
                y = timed(name, "forward", lambda: layer(x))
            timed(name, "backward", lambda y=y: torch.autograd.grad(y, leaves, towards))  # type: ignore[misc]
    return {key: median(each) for key, each in times.items()}


if __name__ == "__main__":
    main()
